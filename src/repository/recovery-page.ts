/**
 * Text of RECOVER.txt, which lies in every repository: how to get everything back with age, zstd, tar and the tools every
 * Unix has, for somebody who has never heard of us. The shell script in it runs as printed (and does, in our tests).
 */
export function recoveryPage(): string {
  return page;
}

// A raw template, because the script is full of backslashes; it must hold neither a backtick nor "${".
const page = String.raw`HOW TO GET THE MAIL BACK WITHOUT SPOOLSAFE

This directory (or bucket) holds backups of Postfix mail queues, made by a program called Spoolsafe.
You do not need Spoolsafe to get the mail back. You need:

  - everything that lies beside this page. In a bucket: copy all of it down first, names and all,
    with any S3 client, for example:  rclone copy remote:BUCKET/PREFIX ./repository
  - the age identity: a file with a line that begins with AGE-SECRET-KEY-. Without it nobody can
    open this, and nothing here will help.
  - the programs age, zstd and tar (GNU tar), and the usual ones: sh, awk, sed, sort, grep, find,
    xargs, coreutils (Debian: apt-get install age zstd)
  - room for about three times what the mail takes
  - root, to give the files their owners
  - if you can get them: openssl 3 and the public key of the host that made the backup (its
    trusted.pub), to see that nobody has changed it.

WHAT LIES HERE

  snapshots/WRITER/NUMBER-ID   one small file per backup. Its first line is JSON that anybody can
                               read: host, time, how many messages, and the ids of the parts and
                               packs it needs. The second line is the signature of the first.
  parts/XX/ID                  a part of the list of messages and files, encrypted. To read it:
                               age -d -i IDENTITY FILE | zstd -d
  packs/XX/ID                  the messages and files themselves, encrypted. To see what is in one:
                               age -d -i IDENTITY FILE | zstd -d | tar -t
  removals/...                 what was deleted on purpose. Not needed.
  claims/... claimed/...       whose mail was taken over by another server. Not needed, but look:
                               what is named there may have been delivered from there.
  drills/...                   signed reports of rehearsed recoveries. Not needed.

The ID of a part or pack is its SHA-256 (sha256sum FILE). Parts are lines with a TAB between fields.
Read them in the order in which the backup names them: the last line of a key (field 2) counts, and
a line "gone" takes the key out. Packs hold older versions of messages as well; only what the list
names counts. So NEVER unpack a pack into a mail queue: unpack it somewhere else, and let the list
say what goes where. The script below does that.

WHAT TO DO

 1. Make sure that the old mail server does not run and cannot come back: what both deliver arrives
    twice.

 2. Take the script out of this page, and look at it:

      sed -n '/^#!\/bin\/sh/,/^# THE END/p' RECOVER.txt > recover.sh

 3. See which backups there are; the last line is the newest. It shows time, host, number of
    messages, and the file:

      REPOSITORY=/path/to/this/directory sh recover.sh list

    Choose one with RECORD=snapshots/... below. Without RECORD it is the newest of the only host.

 4. Decrypt it into a new directory (not a mail queue). Nothing else is touched:

      export REPOSITORY=/path/to/this/directory IDENTITY=/path/to/identity.txt WORK=/root/recovered
      TRUSTED=/path/to/trusted.pub sh recover.sh unpack

    Without TRUSTED the signature is not looked at. Then WORK/manifest is the list, and WORK/files
    has the files, named by their digests. postcat WORK/files/sha256-... shows a message. What is
    damaged or missing is listed in WORK/lost; the rest can be used.

 5. Configuration (main.cf, master.cf, maps, certificates, what postconf said). This writes it below
    WORK/config and nowhere else. Compare, then copy what you need into the new server by hand:

      sh recover.sh config

    WORK/config/-/runbook has printed procedures for what comes next, such as 01-primary-lost.txt.

 6. The queue. Postfix must be installed, STOPPED, and its queue EMPTY; the script checks that:

      CONFIG=/etc/postfix sh recover.sh spool

    It puts every message where it was (from active into incoming, which Postfix would do as well),
    with its logs, owner, mode and time; the time is when Postfix tries next. Mail that an
    administrator had put on hold stays on hold. Then Postfix repairs the names: a queue file is
    named after its inode, so most names change. The old names are good enough until then, but only
    because the queue is empty and everything comes from one backup: in a queue with mail in it one
    of them could be the name of another message, and that message would be lost.

    Mail that may have been delivered already, because it was just being delivered when it was
    copied, goes on hold as well. WORK/in-doubt.ids lists it. Look at it (postcat -q ID), delete
    from the list what should stay, and let the others go:

      postsuper -c /etc/postfix -H - < WORK/in-doubt.ids

    With DOUBTFUL=deliver in front of the command above it is not held at all. What could not be
    placed is in WORK/not-placed, each line with its reason. If the backup has several Postfix
    instances, the script says so: choose with INSTANCE=name, one after the other.

    Mail older than maximal_queue_lifetime (5 days, unless main.cf says otherwise) is tried once
    more and then returned to its sender. If you do not want that, raise it in main.cf now.

 7. Start it:  postfix -c /etc/postfix start

#!/bin/sh
# sh recover.sh list | unpack | config | spool        (see RECOVER.txt)
umask 077; LC_ALL=C; export LC_ALL
[ -n "$REPOSITORY" ] || REPOSITORY=.         # the directory with RECOVER.txt
[ -n "$IDENTITY" ] || IDENTITY=identity.txt  # the age identity
[ -n "$WORK" ] || WORK=recovered             # a new directory, not a mail queue
[ -n "$DOUBTFUL" ] || DOUBTFUL=hold          # or deliver
# RECORD, TRUSTED, INSTANCE, CONFIG, SPOOL (queue directory, asked of postconf if CONFIG is set) may be empty

stop() { echo "recover.sh: $*" >&2; exit 1; }
absolute() { case $1 in /*) echo "$1";; *) echo "$PWD/$1";; esac; }
IDENTITY=$(absolute "$IDENTITY"); WORK=$(absolute "$WORK"); [ -z "$TRUSTED" ] || TRUSTED=$(absolute "$TRUSTED")
cd "$REPOSITORY" || exit 1

# One line per backup, oldest first: time, host, messages, file.
list() {
  find snapshots -type f ! -name '.*' -exec awk '
    function field(name,   v) { v = $0; sub(".*\"" name "\":\"?", "", v); sub(/[",}].*/, "", v); return v }
    FNR == 1 && /^[{]"format":1,"type":"snapshot",/ { print field("time"), field("host"), field("total"), FILENAME }' {} + | sort
}

# The ids of the record's "parts" or "packs", in its order.
ids() { sed -n 1p "$RECORD" | sed "s/.*,\"$1\":\[\([^]]*\)\].*/\1/" | tr '{' '\n' | sed -n 's/^"id":"\([0-9a-f]*\)".*/\1/p'; }

choose() {
  [ -n "$RECORD" ] || [ "$(list | awk '!h[$2]++' | wc -l)" -le 1 ] || stop "backups of several hosts: choose one with RECORD (see: list)"
  [ -n "$RECORD" ] || RECORD=$(list | tail -n 1 | awk '{ print $NF }')
  [ -f "$RECORD" ] || stop "no record $RECORD"
  echo "using $RECORD"
}

# Is the record what its name says, and signed by the key we trust?
check() {
  sed -n 1p "$RECORD" >"$WORK/body"
  case $RECORD in *-"$(sha256sum <"$WORK/body" | cut -c 1-64)") ;; *) stop "$RECORD is damaged";; esac
  [ -n "$TRUSTED" ] || { echo "TRUSTED is not set: the signature is not looked at"; return; }
  sed -n '2s/.*"signature":"\([^"]*\)".*/\1/p' "$RECORD" | base64 -d >"$WORK/signature"
  openssl pkeyutl -verify -pubin -inkey "$TRUSTED" -rawin -in "$WORK/body" -sigfile "$WORK/signature" || stop "$RECORD is not signed by $TRUSTED"
}

# Decrypt parts/XX/ID or packs/XX/ID to WORK/opened, if it is what its name says.
decrypt() {
  sealed=$1/$(echo "$2" | cut -c 1-2)/$2
  rm -f "$WORK/opened.zst" "$WORK/opened"
  [ "$(sha256sum <"$sealed" | cut -c 1-64)" = "$2" ] || { echo "$sealed is missing or damaged" >&2; return 1; }
  age -d -i "$IDENTITY" -o "$WORK/opened.zst" "$sealed" && zstd -d -q -o "$WORK/opened" "$WORK/opened.zst"
}

unpack() {
  [ ! -e "$WORK" ] || stop "$WORK is there already"
  mkdir -p "$WORK/files" || exit 1
  choose; check
  ids parts >"$WORK/parts"; ids packs >"$WORK/packs"
  for id in $(cat "$WORK/parts"); do decrypt parts "$id" && cat "$WORK/opened" >>"$WORK/lines" || stop "without this part nothing can be found"; done
  awk -F '\t' '/^#/ { next } $1 == "gone" { delete line[$2]; next } { line[$2] = $0 } END { for (k in line) print line[k] }' "$WORK/lines" >"$WORK/manifest" || exit 1
  sort -o "$WORK/manifest" "$WORK/manifest"
  for id in $(cat "$WORK/packs"); do decrypt packs "$id" && tar -x --no-same-owner -f "$WORK/opened" -C "$WORK" || echo "pack $id is lost, going on"; done
  rm -f "$WORK/opened.zst" "$WORK/opened" "$WORK/lines"
  # Every file the list names must be there with its digest.
  needs='function needs(line,   f, i, n, l, e) { split(line, f, "\t"); n = f[1] == "message" && f[10] != "-" ? split(f[10], l, ",") : 0
    for (i = 1; i <= n; i++) { split(l[i], e, "="); digest[i] = e[2] } if (f[7] != "-") digest[++n] = f[7]; return n }'
  awk "$needs"' { for (n = needs($0); n > 0; n--) print digest[n] "  files/sha256-" digest[n] }' "$WORK/manifest" >"$WORK/wanted" || exit 1
  sort -u -o "$WORK/wanted" "$WORK/wanted"
  (cd "$WORK" && sha256sum -c wanted 2>/dev/null) >"$WORK/checked"
  [ "$(wc -l <"$WORK/checked")" -eq "$(wc -l <"$WORK/wanted")" ] || stop "the files could not be checked"
  sed -n 's/^files\/sha256-\(.*\): FAILED.*/\1/p' "$WORK/checked" >"$WORK/bad"
  awk "$needs"' FILENAME == ARGV[1] { bad[$0] = 1; next } { for (n = needs($0); n > 0; n--) if (digest[n] in bad) { print; next } }' "$WORK/bad" "$WORK/manifest" >"$WORK/lost" || exit 1
  echo "$(grep -c '^message' "$WORK/manifest") messages, $(grep -c '^file' "$WORK/manifest") other files, $(wc -l <"$WORK/lost") of all these damaged or missing ($WORK/lost)"
}

# Below WORK/config, by instance (- is the host) and kind. Links come last, so that nothing is written through one.
config() {
  [ -f "$WORK/manifest" ] || stop "first: unpack"
  mkdir "$WORK/config" || exit 1
  cd "$WORK/config" || exit 1
  put() { # path type digest owner time target mode
    case /$1/ in */../*) echo "left out: $1"; return;; esac
    mkdir -p "$(dirname "./$1")"
    case $2 in
      link) ln -s "$6" "./$1"; chown -h "$4" "./$1" 2>/dev/null; return;;
      directory) mkdir -p "./$1";;
      file) cp "../files/sha256-$3" "./$1" || return;;
    esac
    chown "$4" "./$1" 2>/dev/null || echo "no owner $4 here: $1"
    chmod "$7" "./$1"; touch -d "@$5" "./$1"
  }
  awk -F '\t' '$1 == "file" { print ($10 == "file" ? 1 : $10 == "directory" ? 2 : 3) "\t" $0 }' "$WORK/manifest" | sort | cut -f 2- | awk -F '\t' -v quote="'" '
    function plain(text,   out, at, code) {
      while (at = match(text, /%[0-9A-F][0-9A-F]/)) {
        code = 16 * index("123456789ABCDEF", substr(text, at + 1, 1)) + index("123456789ABCDEF", substr(text, at + 2, 1))
        out = out substr(text, 1, at - 1) (code > 127 ? sprintf("%c%c", 194, code) : sprintf("%c", code)); text = substr(text, at + 3)
      }
      return out text
    }
    function word(text,   n, i, part, out) { n = split(text, part, quote); out = part[1]; for (i = 2; i <= n; i++) out = out quote "\\" quote quote part[i]; return " " quote out quote }
    {
      split($2, key, "/"); target = $11; sub(/.*"target":/, "", target); sub(/[}]$/, "", target)
      if (target == "null") target = ""; else { target = substr(target, 2, length(target) - 2); gsub(/\\"/, "\"", target); gsub(/\\\\/, "\\", target) }
      path = plain($3); sub(/^\/+/, "", path)
      print "put" word(key[1] "/" key[2] "/" path) word($10) word($7) word(plain($5)) word($6) word(target) word($4)
    }' >"$WORK/put.sh" || exit 1
  . "$WORK/put.sh"
  echo "$(grep -c '^put ' "$WORK/put.sh") files, directories and links are below $WORK/config"
}

spool() {
  [ -f "$WORK/manifest" ] || stop "first: unpack"
  [ -n "$CONFIG" ] || [ -n "$SPOOL" ] || stop "which Postfix? set CONFIG to its configuration directory, for example /etc/postfix"
  if [ -n "$CONFIG" ]; then
    postfix -c "$CONFIG" status 2>/dev/null && stop "Postfix runs: postfix -c $CONFIG stop"
    postfix -c "$CONFIG" check || stop "postfix -c $CONFIG check must succeed first"
    [ -n "$SPOOL" ] || SPOOL=$(postconf -c "$CONFIG" -h queue_directory)
  fi
  cd "$SPOOL" || exit 1
  mkdir -p maildrop incoming active deferred hold bounce defer trace
  [ -z "$(find maildrop incoming active deferred hold bounce defer trace -type f | head -n 1)" ] || stop "$SPOOL is not empty"
  [ -n "$INSTANCE" ] || INSTANCE=$(awk -F '\t' '$1 == "message" { split($2, k, "/"); print k[1] }' "$WORK/manifest" | sort -u)
  [ "$(echo "$INSTANCE" | wc -l)" -le 1 ] || stop "several instances, choose with INSTANCE:" $INSTANCE
  rm -rf "$WORK/todo"; mkdir "$WORK/todo"; cd "$WORK/todo" || exit 1
  # Owners of maildrop files that do not exist here: pickup takes the owner for the sender.
  awk -F '\t' '$3 ~ /^maildrop/ { split($5, o, ":"); print o[1] }' "$WORK/manifest" | sort -u | while read -r u; do id "$u" >/dev/null 2>&1 || echo "$u"; done >strangers
  # What to do, in lists, so that few programs are started: copy, then owner, mode and time of many files at once.
  touch copy owners modes times doubtful inodes; rm -f ../not-placed
  awk -F '\t' -v instance="$INSTANCE" -v doubt="$DOUBTFUL" '
    function place(digest, name, owner, mode, time) {
      print "cp \"$FILES/sha256-" digest "\" " name " || exit 1" > "copy"
      if (!(owner in owners)) { owners[owner] = ++n; print n, owner > "owners" }
      print name > ("owner." owners[owner])
      if (!(mode in modes)) { modes[mode] = 1; print mode > "modes" }
      print name > ("mode." mode)
      print time, name > "times"
    }
    function leave(why) { print why ": " $0 > not_placed }
    FILENAME == "strangers" { stranger[$1] = 1; next }
    FILENAME == "../bad" { bad[$1] = 1; next }
    $1 != "message" || index($2, instance "/") != 1 { next }
    {
      split($3, at, "/"); queue = at[1]; id = at[2]; split($5, owner, ":")
      if (queue !~ /^(maildrop|incoming|active|deferred|hold)$/ || id !~ /^[0-9A-Za-z_]+$/) { leave("unknown queue or name"); next }
      if ($7 in bad) { leave("damaged or missing"); next }
      if (queue == "maildrop" && owner[1] in stranger) { leave("no such user here"); next }
      while (id in taken) id = id "0" # two of one name: the names are made anew in any case
      taken[id] = 1
      if (queue == "active") queue = "incoming"
      if (queue != "maildrop" && $11 ~ /"role":[{]/) queue = "hold"
      if (queue != "maildrop" && queue != "hold" && doubt == "hold" && $11 ~ /"finished":true|"inFlight":(true|null)/) { queue = "hold"; print "hold/" id > "doubtful" }
      place($7, queue "/" id, $5, "0" substr($4, length($4) - 2), $6)
      count[queue]++
      logs = $10 == "-" ? 0 : split($10, entry, ",")
      for (i = 1; i <= logs; i++) {
        split(entry[i], f, "=")
        if (f[1] ~ /^(bounce|defer|trace)$/ && !(f[2] in bad)) place(f[2], f[1] "/" id, $5, "0" substr(f[5], length(f[5]) - 2), f[6])
      }
    }
    END { for (q in count) print count[q], q }' not_placed=../not-placed strangers ../bad "$WORK/manifest" || exit 1
  sort -o times times
  awk '{ if ($1 != time || ++n > 500) { printf "%s touch -d @%s", end, $1; time = $1; n = 0; end = "\n" } printf " %s", $2 } END { print "" }' times >touch || exit 1
  cd "$SPOOL" || exit 1
  todo=$WORK/todo
  FILES=$WORK/files sh "$todo/copy" || stop "not everything could be copied: empty $SPOOL again and repeat this step"
  while read -r n owner; do xargs chown "$owner" <"$todo/owner.$n" || stop "no owner $owner here"; done <"$todo/owners"
  while read -r mode; do xargs chmod "$mode" <"$todo/mode.$mode" || exit 1; done <"$todo/modes"
  sh "$todo/touch" || exit 1
  [ ! -s "$todo/doubtful" ] || xargs ls -i <"$todo/doubtful" >"$todo/inodes"
  sync
  [ -n "$CONFIG" ] || { echo "now let Postfix repair the names: postsuper -s, until it says nothing; then take #FIX off the names in trace"; return; }
  for try in 1 2 3 4 5; do said=$(postsuper -c "$CONFIG" -s 2>&1); [ -n "$said" ] || break; echo "$said"; done
  # postsuper renames a trace log in two steps and leaves out the second.
  find trace -name '*#FIX' | while read -r log; do mv "$log" "$(echo "$log" | sed 's/#FIX$//')"; done
  find hold -type f -exec ls -i {} + | awk 'NR == FNR { doubtful[$1] = 1; next } $1 in doubtful { sub(/.*\//, "", $2); print $2 }' "$todo/inodes" - >"$WORK/in-doubt.ids"
  postfix -c "$CONFIG" check
  echo "$(wc -l <"$WORK/in-doubt.ids") on hold because they may have been delivered already: $WORK/in-doubt.ids"
  [ ! -s "$WORK/not-placed" ] || echo "$(wc -l <"$WORK/not-placed") not placed: $WORK/not-placed"
  echo "when the old server cannot come back: postfix -c $CONFIG start"
}

case $1 in list|unpack|config|spool) "$1";; *) echo "say list, unpack, config or spool" >&2; exit 2;; esac
# THE END
`;
