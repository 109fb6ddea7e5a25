import { createHash } from "node:crypto";

/** The whole style of the page. It names no other resource, works from 320 px on, and follows the reader's colour scheme. */
export const pageStyle = `
:root{color-scheme:light dark;--bg:#f6f7f8;--card:#fff;--ink:#1c2126;--soft:#57606a;--line:#d5dae0;--ok:#1a7f4b;--warn:#96650a;--bad:#c2272d;--okbg:#e2f4ea;--warnbg:#fdf1d8;--badbg:#fbe4e4;--bar:#5b7ea6;--heat:46,107,179}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1d2125;--ink:#e4e8ec;--soft:#9aa4ae;--line:#343a41;--ok:#4cc38a;--warn:#e2ae4c;--bad:#f2777c;--okbg:#17352a;--warnbg:#3a2e14;--badbg:#431f22;--bar:#7ea3cd;--heat:98,158,230}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:60rem;margin:0 auto;padding:.75rem}
header{display:flex;flex-wrap:wrap;gap:.25rem .75rem;align-items:baseline;margin:.25rem 0 .75rem}
h1{font-size:1.3rem;margin:0}
h2{font-size:1rem;margin:0 0 .5rem}
h3{font-size:.95rem;margin:.75rem 0 .25rem}
h3:first-of-type{margin-top:0}
p{margin:.25rem 0}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem;margin:0 0 .75rem}
.soft,footer,caption{color:var(--soft);font-size:.85rem}
.tag{display:inline-block;border-radius:4px;padding:0 .4rem;font-size:.85rem;font-weight:600}
.good{color:var(--ok);background:var(--okbg)}
.warning,.incomplete{color:var(--warn);background:var(--warnbg)}
.critical,.failed{color:var(--bad);background:var(--badbg)}
ul.problems{list-style:none;margin:0;padding:0}
ul.problems li{border-left:4px solid var(--warn);padding:.1rem 0 .1rem .6rem;margin:0 0 .6rem}
ul.problems li.is-critical{border-color:var(--bad)}
code{font:.9em ui-monospace,"DejaVu Sans Mono",monospace}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.85rem}
caption{text-align:left;padding:0 0 .25rem}
th,td{overflow-wrap:break-word;text-align:left;padding:.2rem .3rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr:last-child td,tr:last-child th{border-bottom:0}
tbody th{color:inherit;font-weight:400;white-space:nowrap}
td.h1{background:rgba(var(--heat),.1)}
td.h2{background:rgba(var(--heat),.25)}
td.h3{background:rgba(var(--heat),.45)}
td.h4{background:rgba(var(--heat),.65)}
svg.line{display:block;width:100%;height:4rem}
svg .grid{fill:var(--line)}
svg .hold{fill:var(--bar)}
svg .good{fill:var(--ok)}
svg .incomplete{fill:var(--warn)}
svg .failed{fill:var(--bad)}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
summary{cursor:pointer;font-size:.85rem;color:var(--soft)}
table.ages{font-size:.8rem}
.ages th,.ages td{padding:.2rem .17rem}
footer{margin:0 0 1rem}
@media (max-width:26rem){main{padding:.4rem}section{padding:.6rem .5rem}}
`;

/**
 * What a browser may do with the page: apply this very style and nothing else. No script, no request to anybody, no frame
 * around it.
 */
export const pagePolicy = [
  "default-src 'none'",
  `style-src 'sha256-${createHash("sha256").update(pageStyle).digest("base64")}'`,
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");
