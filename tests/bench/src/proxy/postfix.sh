# A Postfix of its own: package, home, own address, where it relays to. In a mount namespace of its own; its queue is on the disk, as it must be.
set -euo pipefail
package=$1 home=$2 own=$3 mx=$4
mkdir "$home/work" "$home/root"
cp -a "$package" "$home/upper"
mount --make-rprivate /
mount -t overlay -o "lowerdir=/,upperdir=$home/upper,workdir=$home/work" overlay "$home/root"
root=$home/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
add() { grep -v "^$2:" "$root/etc/$1" > "$root/etc/$1.new" || true; echo "$2:$3" >> "$root/etc/$1.new"; mv "$root/etc/$1.new" "$root/etc/$1"; }
add passwd postfix "x:2010:2010::/nonexistent:/usr/sbin/nologin"
add group postfix "x:2010:"
add group postdrop "x:2011:"
spool=$root/var/spool/postfix
mkdir -p "$root/var/lib/postfix" "$spool/pid" "$spool"/{active,bounce,corrupt,defer,deferred,flush,hold,incoming,private,saved,trace,maildrop,public}
chown -R 2010 "$spool"/{active,bounce,corrupt,defer,deferred,flush,hold,incoming,private,saved,trace,maildrop,public} "$root/var/lib/postfix"
chgrp 2011 "$spool"/{maildrop,public}
chmod 730 "$spool/maildrop"
chmod 710 "$spool/public"
cat > "$root/etc/postfix/main.cf" <<END
compatibility_level = 3.6
myhostname = relay.bench.example
mydestination =
local_recipient_maps =
inet_protocols = ipv4
inet_interfaces = $own
mynetworks = 198.51.100.0/24
relayhost = [$mx]
alias_maps =
alias_database =
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
shlib_directory = /usr/lib/postfix
smtpd_client_connection_count_limit = 0
disable_dns_lookups = yes
maillog_file = /var/log/postfix.log
END
cat > "$root/etc/postfix/master.cf" <<END
smtp      inet  n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
proxymap  unix  - - n - - proxymap
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
smtp      unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
scache    unix  - - n - 1 scache
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
END
# It leads its process group already, and so cannot begin a session, which it insists on unless it is told to stay (-d).
exec chroot "$root" /usr/lib/postfix/sbin/master -d
