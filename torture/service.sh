#!/usr/bin/env bash
# README's way from the archive to the uninstall, under a real systemd: on a Debian in a virtual machine, each step as
# README says it, by an ordinary user. The first that is otherwise ends it. Run it as root, with qemu-system-x86_64,
# mmdebstrap and mke2fs. The Debian is kept in SERVICE_DIR; ACCEL=tcg is for machines where KVM starts nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${SERVICE_DIR:-/var/tmp/honeydew-service}
port=${SERVICE_PORT:-2299}
step=
skip() { echo "SKIPPED: $*"; exit 0; }
for tool in qemu-system-x86_64 mmdebstrap mke2fs ssh-keygen; do
  command -v $tool >/dev/null || skip "there is no $tool"
done
[ "$(id -u)" = 0 ] || skip "not root, who alone can make the image"
[ "$(uname -m)" = x86_64 ] || skip "the image is for amd64"
mkdir -p "$dir"

power_cut() {
  [ ! -s "$dir/qemu.pid" ] || kill -9 "$(cat "$dir/qemu.pid")" 2>/dev/null || true
  rm -f "$dir/qemu.pid" "$dir"/mux-*
}
finish() {
  code=$?
  [ $code = 0 ] || echo "FAILED: $step" >&2
  power_cut
  exit $code
}
trap finish EXIT
step() { step=$*; printf '%4ds  %s\n' "$SECONDS" "$*"; }

# on runs the script on stdin in the machine, as that user after a login.
on() {
  { cat "$dir/prelude"; cat; } | timeout 900 ssh -q -i "$dir/login" -p "$port" -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20 -o ControlMaster=auto -o ControlPath="$dir/mux-$1" \
    -o ControlPersist=yes "$1@127.0.0.1" 'bash -l'
}

# What every script in the machine begins with. drop_in adds README's Nth drop-in, as `systemctl --user edit` would.
cat >"$dir/prelude" <<'END'
set -euo pipefail
trap 'echo "in the machine: $BASH_COMMAND" >&2' ERR
export XDG_RUNTIME_DIR=/run/user/1000
unit() { systemctl --user show honeydew -P "$1"; }
is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; return 1; }; }
await() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 1; done; echo "never: $*" >&2; return 1; }
refused() { ! "$@" >/dev/null 2>&1 || { echo "not refused: $*" >&2; return 1; }; }
restart() { systemctl --user reset-failed honeydew; systemctl --user restart honeydew; }
running() { systemctl --user is-active honeydew >/dev/null && honeydew ping; }
drop_in() {
  local folder=~/.config/systemd/user/honeydew.service.d
  mkdir -p $folder
  awk -v n="$1" '!/^    / { within = 0 } /^    \[Service\]/ { within = 1; found++ }
    within && found == n { print substr($0, 5) }' ~/dist/honeydew-*/README.md >$folder/override.conf
  [ -s $folder/override.conf ]
  systemctl --user daemon-reload
}
control() { # the API's settings
  exec 3<>/dev/tcp/127.0.0.1/8931
  printf 'POST /control HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "${#1}" "$1" >&3
  cat <&3 >/dev/null
  exec 3>&-
}
log_in() { echo demo | honeydew login --username demo --password-stdin; }
END

# boot starts the machine with the clock at $1, and waits until one can log in. It has one processor: two that
# QEMU 7.2 emulates now and then make Linux panic while it patches itself.
boot() {
  local accel until
  for accel in ${ACCEL:-kvm tcg}; do
    qemu-system-x86_64 -accel "$accel" -cpu max -m 1536 -nodefaults -no-reboot -display none \
      -kernel "$dir/vmlinuz" -initrd "$dir/initrd" -append "root=/dev/vda rw console=ttyS0 quiet panic=-1" \
      -drive "file=$dir/disk.ext4,format=raw,if=virtio,cache=unsafe" -rtc "base=$1" \
      -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net \
      -device virtio-rng-pci -serial "file:$dir/console.log" -pidfile "$dir/qemu.pid" -daemonize || continue
    until=$((SECONDS + 900))
    [ "$accel" = tcg ] || until=$((SECONDS + 60))
    while [ $SECONDS -lt $until ] && kill -0 "$(cat "$dir/qemu.pid")" 2>/dev/null; do
      on root <<<true 2>/dev/null && return
      sleep 1 # ssh may be refused at once
    done
    power_cut
  done
  return 1
}

step "the archive, signed; the API; a Debian with systemd"
[ -f "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
[ -f "$dir/login" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/login"
make dist TARGETS=linux/amd64 SIGN_KEY="$dir/key" >/dev/null
go build -C sandbox -o ../bin/sandbox .
root=$dir/root
packages=systemd-sysv,dbus-user-session,libpam-systemd,openssh-server,git,procps,linux-image-cloud-amd64,initramfs-tools
if [ ! -f "$root.made" ]; then
  rm -rf "$root"
  mmdebstrap --quiet --variant=minbase --include=$packages trixie "$root" || skip "no Debian can be fetched here"
  touch "$root.made"
fi
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
printf '[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\n' >"$root/etc/systemd/network/e.network"
chroot "$root" systemctl -q enable systemd-networkd 2>/dev/null
chroot "$root" systemctl -q mask systemd-networkd-wait-online dev-ttyS0.device
chroot "$root" id ada >/dev/null 2>&1 || chroot "$root" useradd -m -s /bin/bash ada
rm -rf "$root/home/ada/dist" "$root/srv/repo"
install -Dm644 "$dir/login.pub" "$root/root/.ssh/authorized_keys"
install -Dm644 "$dir/login.pub" "$root/home/ada/.ssh/authorized_keys"
cp -r dist "$root/home/ada/dist"
echo "honeydew namespaces=\"honeydew\" $(cat "$dir/key.pub")" >"$root/home/ada/dist/allowed_signers"
chroot "$root" chown -R ada:ada /home/ada
git clone -q --no-local . "$root/srv/repo"
cp bin/sandbox "$root/usr/local/bin/"
printf '[Service]\nEnvironment=HOME=/root\nWorkingDirectory=/srv/repo\nExecStart=/usr/local/bin/sandbox -repos .
[Install]\nWantedBy=multi-user.target\n' >"$root/etc/systemd/system/sandbox.service"
chroot "$root" systemctl -q enable sandbox 2>/dev/null
cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$root"/boot/initrd.img-* "$dir/initrd"
rm -f "$dir/disk.ext4"
mke2fs -q -t ext4 -d "$root" "$dir/disk.ext4" 2G >/dev/null
boot 2030-01-01T12:00:00 || skip "no virtual machine starts here; its console is $dir/console.log"

step "Verify, Install"
on ada <<'END'
cd dist
ssh-keygen -Y verify -f allowed_signers -I honeydew -n honeydew -s SHA256SUMS.sig < SHA256SUMS
sha256sum --quiet -c --ignore-missing SHA256SUMS
tar -xzf honeydew-*-linux-amd64.tar.gz
mkdir -p ~/.local/bin && install honeydew-*-linux-amd64/honeydew ~/.local/bin/
END
step "Run it as a service"
on root <<<'loginctl enable-linger ada; mkdir /mnt/backups; chown ada /mnt/backups'
on ada <<'END'
honeydew service install
systemctl --user daemon-reload && systemctl --user -q enable --now honeydew
running
honeydew env add sandbox http://127.0.0.1:8931/graphql --use
log_in
honeydew jira issues acme --start-date -7d >/dev/null
honeydew schedule add nightly '0 2 * * *' jira.issues organization=acme startDate=last-success
honeydew doctor >/dev/null
journalctl --user -u honeydew | grep 'Started honeydew' >/dev/null
END
step "the restrictions are in force, and the daemon writes where README says"
on ada <<'END'
is "$(unit Type) $(unit NoNewPrivileges) $(unit ProtectSystem) $(unit PrivateUsers)" "notify yes strict yes"
is "$(unit MemoryMax) $(unit ProtectProc) $(unit MemoryDenyWriteExecute)" "2147483648 invisible yes"
kernel=$(awk '/^Seccomp:|^NoNewPrivs:|^CapBnd:/ { print $2 }' "/proc/$(unit MainPID)/status")
is "$(echo $kernel)" "0000000000000000 1 2"
promised=$(sed -n 's/.*security` reckons \([0-9.]*\) of 10.*/\1/p' ~/dist/honeydew-*/SECURITY.md)
exposure=$(systemd-analyze --user security honeydew --no-pager | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
awk "BEGIN { exit !($exposure <= $promised) }"
honeydew backup ~/backup; honeydew backup /tmp/backup; honeydew backup $XDG_RUNTIME_DIR/backup
refused honeydew backup /mnt/backups/one
drop_in 1
systemctl --user restart honeydew
honeydew backup /mnt/backups/one
END
step "killed, it comes back; stopped by honeydew stop, it stays; beside another daemon it ends with 5, once"
on ada <<'END'
kill -9 "$(unit MainPID)"
await running
is "$(unit NRestarts)" 1
honeydew stop
is "$(unit ActiveState) $(unit Result)" "inactive success"
honeydew start
refused systemctl --user start honeydew
is "$(unit ActiveState) $(unit ExecMainStatus) $(unit NRestarts)" "failed 5 0"
honeydew stop
restart
END
step "a stop with a running job ends in time, and the job runs again"
on ada <<'END'
control '{"gate":true}'
job=$(honeydew jira issues acme --detach)
await eval "honeydew job show $job | grep 'status: *running'"
systemctl --user stop honeydew
is "$(unit Result)" success
control '{"gate":false}'
restart
honeydew job wait "$job"
END
step "the passphrase by LoadCredential; one that is empty ends with 78, once; then encrypted"
on ada <<'END'
(umask 077; echo 'correct horse' >~/.config/honeydew-passphrase)
drop_in 3
restart
log_in
honeydew doctor >/dev/null
: >~/.config/honeydew-passphrase
refused restart
is "$(unit ActiveState) $(unit ExecMainStatus) $(unit NRestarts)" "failed 78 0"
echo 'correct horse' | systemd-creds encrypt --user --name=honeydew-passphrase - ~/.config/honeydew-passphrase.cred
rm ~/.config/honeydew-passphrase
drop_in 4
if [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 258 ]; then
  restart
  honeydew doctor >/dev/null
  refused grep -r 'correct horse' ~ /tmp
else
  refused restart
  is "$(unit ExecMainStatus)" 243
fi
rm -r ~/.config/honeydew-passphrase.cred ~/.config/systemd/user/honeydew.service.d
systemctl --user daemon-reload
END
step "without user namespaces it fails as README says, and runs with README's drop-in"
namespaces=$(on root <<<'sysctl -n user.max_user_namespaces; sysctl -qw user.max_user_namespaces=0')
on ada <<'END'
refused restart
case $(unit ExecMainStatus) in 217 | 218 | 226) ;; *) is "$(unit ExecMainStatus)" 217 ;; esac
drop_in 2
restart
running
rm -r ~/.config/systemd/user/honeydew.service.d
systemctl --user daemon-reload
systemctl --user stop honeydew
END
on root <<<"sysctl -qw user.max_user_namespaces=$namespaces"
step "a power cut with jobs running; the next day it runs without a login, nothing acked is lost, the missed run is one"
on ada <<'END' >"$dir/acked"
{ restart; honeydew logout; log_in; control '{"gate":true}'; } >&2
for _ in $(seq 30); do echo '{"command":"jira.issues","payload":{"organization":"acme","startDate":"-7d"}}'; done |
  honeydew submit --batch -
await eval "honeydew status | grep '4 of 4 workers'"
END
power_cut
boot 2030-01-02T03:00:00
[ "$(wc -l <"$dir/acked")" = 30 ]
on root <<END
await eval '[ -S /home/ada/.honeydew/daemon.sock ]'
loginctl list-sessions --no-legend | { ! grep -E ' ada .* (user|tty) '; }
honeydew() { runuser -u ada -- /home/ada/.local/bin/honeydew "\$@"; }
await honeydew ping
await eval 'honeydew schedule list | grep "nightly .* in 22h"'
is "\$(honeydew job list --all --json | grep -o '"schedule": *"nightly"' | wc -l)" 1
for job in $(tr '\n' ' ' <"$dir/acked"); do honeydew job show \$job >/dev/null; done
END
on ada <<'END'
log_in # the API forgot its logins in the cut
honeydew job retry --status failed >/dev/null || true
await eval "honeydew status | grep '0 pending, 0 running'"
END
step "Upgrade, Uninstall"
on ada <<'END'
old=$(unit MainPID)
refused cp ~/dist/honeydew-*-linux-amd64/honeydew ~/.local/bin/
install ~/dist/honeydew-*-linux-amd64/honeydew ~/.local/bin/
systemctl --user restart honeydew
running
[ "$(unit MainPID)" != "$old" ]
systemctl --user -q disable --now honeydew; honeydew service uninstall
honeydew stop; rm -r ~/.honeydew ~/.local/bin/honeydew
systemctl --user daemon-reload
is "$(unit LoadState)" not-found
rm -r ~/dist ~/backup
is "$(find ~ $XDG_RUNTIME_DIR /tmp -user ada -iname '*honeydew*' 2>/dev/null)" ""
END
echo "all as README says, in ${SECONDS}s"
