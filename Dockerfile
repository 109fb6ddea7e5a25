# Spoolsafe beside a Postfix that is elsewhere: on the host, or in another container. The spool and the configuration are
# mounted; no Postfix runs in here, its package is installed for its tools.
#
#   docker build -t spoolsafe .
#   docker run -d --name spoolsafe --restart=unless-stopped --stop-timeout=300 \
#     --pid=host --network=host --cap-add=SYS_PTRACE \
#     -v /etc/passwd:/etc/passwd:ro -v /etc/group:/etc/group:ro \
#     -v /etc/postfix:/etc/postfix:ro -v /var/spool/postfix:/var/spool/postfix \
#     -v /etc/spoolsafe:/etc/spoolsafe -v /var/lib/spoolsafe:/var/lib/spoolsafe \
#     -v /var/backups/spoolsafe:/var/backups/spoolsafe spoolsafe
#   docker exec spoolsafe spoolsafe doctor
#
# --pid=host (or --pid=container:POSTFIX): without it Spoolsafe can't see who delivers, so it captures in mode live whatever
#   the configuration says: nothing is put on hold, and what is in flight is not known (in doubt at a restore). The host's
#   /proc in a PID namespace of its own does for hold; for freeze it doesn't: Postfix could not be told to reload.
# --cap-add=SYS_PTRACE: to see which processes of other users have a file open. Recovery after a crash waits for a postsuper
#   that outlived its backup, and that one runs as mail_owner.
# /etc/passwd and /etc/group of where Postfix runs: postsuper becomes the user mail_owner (main.cf), maildrop belongs to the
#   users who wrote the mail, and a restore goes by names. The numbers in this image are others. Where they don't fit,
#   postsuper sees no mail and says nothing of it: then backups are taken live, doctor says so, and a restore is refused.
#   Postfix in another container: give both images the same numbers, or take one image for both (examples/compose).
# /etc/spoolsafe: spoolsafe.toml and keys; `spoolsafe init` with the same mounts makes them.
# /var/lib/spoolsafe: the journal of what is on hold is there. It must outlive the container.
# The queue may be mounted read-only where nothing but mode live is wanted.
#
# What a test does (test/docker.real.test.ts): every RUN and COPY of the second stage, in a chroot made of Debian's packages (of the
# first stage too with SPOOLSAFE_LONG=1), then --version, doctor, backup and verify of a mounted queue, in a PID namespace of its own and in Postfix's.
# What was never run: a container engine. So layers and their cache, the images named by FROM (the test puts Debian's
# packages in their place, and npm of its own machine), VOLUME, HEALTHCHECK, signals by way of an engine, arm64.

# The Node of package.json's optionalDependencies.
FROM node:24.21.0-bookworm-slim AS build
WORKDIR /build
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund --no-update-notifier
COPY tsconfig.json ./
COPY scripts/build.mjs scripts/
COPY src/ src/
RUN npm run build
# dist/ has everything bundled: nothing of node_modules is needed but the Node that package-lock.json pins.
RUN install -D -m 0755 "$(readlink -f node_modules/.bin/node)" /image/bin/node \
  && cp -R dist package.json /image/

FROM debian:12.12-slim
# An image has no service to start; without main.cf and a queue of its own a forgotten mount is an error, and no backup of
# nothing. ssl-cert makes a key when it is installed: everybody who has the image would have it.
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d \
  && chmod 0755 /usr/sbin/policy-rc.d \
  && echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections \
  && apt-get update -q \
  && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    age jq postfix util-linux zstd \
  && rm -rf /var/lib/apt/lists/* /var/spool/postfix/* /etc/postfix/main.cf \
    /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
COPY LICENSE README.md /opt/spoolsafe/
COPY examples/ /opt/spoolsafe/examples/
COPY runbooks/ /opt/spoolsafe/runbooks/
COPY --from=build /image/ /opt/spoolsafe/
RUN ln -s /opt/spoolsafe/bin/node /usr/local/bin/node \
  && ln -s /opt/spoolsafe/dist/spoolsafe.js /usr/local/bin/spoolsafe \
  && mkdir -m 0700 /etc/spoolsafe /var/lib/spoolsafe \
  && spoolsafe --version
VOLUME ["/var/lib/spoolsafe"]
# Unhealthy: what `spoolsafe status` calls a problem, a backup that is too old before all. So it is until the first one.
HEALTHCHECK --interval=5m --timeout=30s CMD ["spoolsafe", "status"]
ENTRYPOINT ["spoolsafe"]
CMD ["schedule", "run"]
