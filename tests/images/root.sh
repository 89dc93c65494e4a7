# shellcheck shell=bash
# What a NixOS root holds before its first boot: names, kinds, owners and modes as NixOS makes them, contents tiny and
# made up. Sourced by tests/images/make, which has the `put_…` functions. Nothing here is a value of anybody's.

# A store path's hash: 32 characters of nix's alphabet (no e, o, t, u), made from the name.
store_path() { # NAME
  local hash
  hash=$(printf 'deaddrop %s' "$1" | sha256sum)
  hash=${hash:0:32}
  printf '/nix/store/%s-%s' "${hash//e/z}" "$1"
}

# Sets the variables that the trees below share, one a store path.
name_store_paths() {
  # shellcheck disable=SC2034 # some are for readers of one tree only
  system=$(store_path nixos-system-node1-25.11.20251104.a1b2c3d)
  etc=$(store_path etc)
  units=$(store_path system-units)
  k3s_unit=$(store_path unit-k3s.service)
  wifi_unit=$(store_path unit-wpa_supplicant.service)
  users_json=$(store_path users-groups.json)
  users_perl=$(store_path update-users-groups.pl)
  etc_perl=$(store_path setup-etc.pl)
  perl=$(store_path perl-5.42.0-env)
  bash=$(store_path bash-interactive-5.3p3)
  coreutils=$(store_path coreutils-9.8)
  path=$(store_path system-path)
  systemd=$(store_path systemd-258.2)
  kernel=$(store_path linux-6.12.57)
  initrd=$(store_path initrd-linux-6.12.57)
  modules=$(store_path linux-6.12.57-modules)
  firmware=$(store_path firmware)
  hardware=$(store_path hwdata-0.400)
}

# A file of the store: 0444 (or 0555), root's, of the second 1.
store_file() { # PATH [MODE]
  put_file "${2:-0444}" 0:0 "$1"
}

# A directory of the store: 0555, root's.
store_dirs() { # PATH…
  local dir
  for dir; do put_dir 0555 0:0 "$dir"; done
}

# The closure of the system. Every image has it.
put_store() {
  name_store_paths
  put_dir 0755 0:0 /nix
  # nix gives the store to its builders' group, sticky.
  put_dir 1775 0:30000 /nix/store

  store_dirs "$bash" "$bash/bin" "$coreutils" "$coreutils/bin" "$perl" "$perl/bin" "$systemd" "$systemd/lib" \
    "$systemd/lib/systemd" "$path" "$path/bin" "$kernel" "$initrd" "$modules" "$modules/lib" "$firmware" "$firmware/lib"
  printf '#!/bin/false\nbash stands here\n' | store_file "$bash/bin/bash" 0555
  put_link "$bash/bin/sh" bash
  printf '#!/bin/false\ncoreutils stands here\n' | store_file "$coreutils/bin/coreutils" 0555
  put_link "$coreutils/bin/env" coreutils
  printf '#!/bin/false\nperl stands here\n' | store_file "$perl/bin/perl" 0555
  printf '#!/bin/false\nsystemd stands here\n' | store_file "$systemd/lib/systemd/systemd" 0555
  put_link "$path/bin/bash" "$bash/bin/bash"
  put_link "$path/bin/env" "$coreutils/bin/env"
  # Large enough for more than one block, small when compressed.
  seq -f 'kernel line %06.0f of a file that takes some room' 20000 | store_file "$kernel/bzImage"
  seq -f 'initrd line %06.0f' 9000 | store_file "$initrd/initrd"
  printf 'kernel/drivers/virtio\n' | store_file "$modules/lib/modules.order"
  printf 'none\n' | store_file "$firmware/lib/README"

  put_hardware
  put_users
  put_units
  put_etc_tree
  put_system
}

# A directory of many entries, in several blocks: a hash tree where a kernel wrote it, linear where mke2fs did.
put_hardware() {
  store_dirs "$hardware" "$hardware/share" "$hardware/share/pci"
  local number
  for number in {001..500}; do
    printf 'vendor %s\n' "$number" | store_file "$hardware/share/pci/vendor-0x$number-of-the-database"
  done
}

put_users() {
  printf 'the script that makes users stands here\n' | store_file "$users_perl"
  printf 'the script that makes /etc stands here\n' | store_file "$etc_perl"
  store_file "$users_json" <<'JSON'
{"groups":[{"gid":null,"members":["admin"],"name":"wheel"},{"gid":100,"members":[],"name":"users"},{"gid":318,"members":[],"name":"shadow"},{"gid":30000,"members":["nixbld1","nixbld2"],"name":"nixbld"}],"mutableUsers":true,"users":[{"autoSubUidGidRange":true,"createHome":true,"description":"","expires":null,"group":"users","hashedPassword":null,"hashedPasswordFile":"/etc/secrets/admin-password","home":"/home/admin","homeMode":"700","initialHashedPassword":null,"initialPassword":null,"isSystemUser":false,"name":"admin","password":null,"shell":"/run/current-system/sw/bin/bash","subGidRanges":[],"subUidRanges":[],"uid":1000},{"autoSubUidGidRange":false,"createHome":false,"description":"System administrator","expires":null,"group":"root","hashedPassword":null,"hashedPasswordFile":null,"home":"/root","homeMode":"700","initialHashedPassword":"!","initialPassword":null,"isSystemUser":false,"name":"root","password":null,"shell":"/run/current-system/sw/bin/bash","subGidRanges":[],"subUidRanges":[],"uid":0},{"autoSubUidGidRange":false,"createHome":false,"description":"","expires":null,"group":"systemd-network","hashedPassword":null,"hashedPasswordFile":null,"home":"/var/empty","homeMode":"700","initialHashedPassword":null,"initialPassword":null,"isSystemUser":true,"name":"systemd-network","password":null,"shell":"/run/current-system/sw/bin/nologin","subGidRanges":[],"subUidRanges":[],"uid":152}]}
JSON
}

put_units() {
  store_dirs "$units" "$units/multi-user.target.wants" "$k3s_unit" "$wifi_unit"
  store_file "$k3s_unit/k3s.service" <<UNIT
[Unit]
After=network-online.target
Description=k3s service

[Service]
Environment="PATH=$coreutils/bin"
ExecStart=$path/bin/k3s server \\
 --token-file /etc/secrets/k3s-token \\
 --disable traefik
Restart=always
Type=notify
UNIT
  store_file "$wifi_unit/wpa_supplicant.service" <<UNIT
[Unit]
Description=WPA Supplicant instance

[Service]
EnvironmentFile=-/etc/secrets/wifi.env
ExecStart=$path/bin/wpa_supplicant -c /etc/wpa_supplicant/nixos.conf
UNIT
  put_link "$units/k3s.service" "$k3s_unit/k3s.service"
  put_link "$units/wpa_supplicant.service" "$wifi_unit/wpa_supplicant.service"
  put_link "$units/systemd-userdbd.service" /dev/null
  put_link "$units/multi-user.target.wants/k3s.service" ../k3s.service
  put_link "$units/multi-user.target.wants/wpa_supplicant.service" ../wpa_supplicant.service
}

# The names that environment.etc gives, each a link in the etc tree: NAME=the store file's name.
readonly ETC_LINKS=(bashrc fstab hostname hosts inputrc issue locale.conf nsswitch.conf os-release profile
  resolvconf.conf nix/nix.conf ssh/moduli ssh/ssh_config ssh/ssh_known_hosts ssh/sshd_config pam.d/login pam.d/sshd)

put_etc_tree() {
  store_dirs "$etc" "$etc/etc" "$etc/etc/nix" "$etc/etc/pam.d" "$etc/etc/ssh" "$etc/etc/systemd"
  local entry target
  for entry in "${ETC_LINKS[@]}"; do
    target=$(store_path "etc-${entry##*/}")
    case $entry in
      fstab) printf '/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n' ;;
      hosts) printf '127.0.0.1 localhost\n127.0.0.2 node1\n' ;;
      hostname) printf 'node1\n' ;;
      os-release) printf 'ID=nixos\nNAME=NixOS\nVERSION_ID="25.11"\n' ;;
      *) printf '# %s, as the system made it\n' "$entry" ;;
    esac | store_file "$target"
    put_link "$etc/etc/$entry" "$target"
  done
  # A directory that is one link into the store: nothing can be put below.
  put_link "$etc/etc/systemd/system" "$units"
  put_link "$etc/etc/terminfo" "$path/share/terminfo"
  # An entry with a mode is copied; its mode and owner stand beside it.
  printf 'root ALL=(ALL:ALL) SETENV: ALL\n%%wheel ALL=(ALL:ALL) SETENV: ALL\n' | store_file "$(store_path sudoers)"
  put_link "$etc/etc/sudoers" "$(store_path sudoers)"
  printf '0440\n' | store_file "$etc/etc/sudoers.mode"
  printf '+0\n' | store_file "$etc/etc/sudoers.uid"
  printf '+0\n' | store_file "$etc/etc/sudoers.gid"
}

put_system() {
  store_dirs "$system" "$system/bin" "$system/specialisation"
  store_file "$system/activate" 0555 <<SCRIPT
#!$bash/bin/bash
systemConfig='$system'
export PATH=$coreutils/bin

#### Activation script snippet etc:
_localstatus=0
echo "setting up /etc..."
$perl/bin/perl $etc_perl $etc/etc

#### Activation script snippet users:
_localstatus=0
install -m 0700 -d /root
install -m 0755 -d /home
$perl/bin/perl \\
-w $users_perl $users_json

#### Activation script snippet var:
_localstatus=0

ln -sfn "\$(readlink -f "\$systemConfig")" /run/current-system
exit 0
SCRIPT
  printf '#!%s/bin/bash\nsystemConfig=%s\nexec %s/lib/systemd/systemd\n' "$bash" "$system" "$systemd" |
    store_file "$system/init" 0555
  printf '#!%s/bin/bash\necho switch\n' "$bash" | store_file "$system/bin/switch-to-configuration" 0555
  printf '25.11.20251104.a1b2c3d' | store_file "$system/nixos-version"
  printf 'x86_64-linux' | store_file "$system/system"
  printf 'systemd 258.2' | store_file "$system/init-interface-version"
  printf 'loglevel=4 lsm=landlock,yama,bpf' | store_file "$system/kernel-params"
  store_file "$system/boot.json" <<JSON
{"org.nixos.bootspec.v1":{"init":"$system/init","initrd":"$initrd/initrd","initrdSecrets":"$system/append-initrd-secrets","kernel":"$kernel/bzImage","kernelParams":["loglevel=4","lsm=landlock,yama,bpf"],"label":"NixOS Xantusia 25.11.20251104.a1b2c3d (Linux 6.12.57)","system":"x86_64-linux","toplevel":"$system"},"org.nixos.specialisation.v1":{}}
JSON
  printf '#!%s/bin/bash\n' "$bash" | store_file "$system/append-initrd-secrets" 0555
  put_link "$system/etc" "$etc/etc"
  put_link "$system/sw" "$path"
  put_link "$system/systemd" "$systemd"
  put_link "$system/kernel" "$kernel/bzImage"
  put_link "$system/initrd" "$initrd/initrd"
  put_link "$system/kernel-modules" "$modules"
  put_link "$system/firmware" "$firmware/lib"
}

# ---------------------------------------------------------------- the root of make-disk-image, activated at build

root_of_disk_image() { # where /var/run leads: `../run` (systemd's tmpfiles) or `/run` (before them)
  put_store
  put_nix_state
  local dir
  for dir in bin boot dev home lib64 mnt proc run srv sys usr usr/bin; do put_dir 0755 0:0 "/$dir"; done
  put_dir 0700 0:0 /root
  put_dir 1777 0:0 /tmp
  put_link /bin/sh "$bash/bin/sh"
  put_link /usr/bin/env "$coreutils/bin/env"
  put_activated_etc
  put_var "$1"
  put_dir 0700 1000:100 /home/admin
  printf '# the user wrote this\nexport EDITOR=vi\n' | put_file 0644 1000:100 /home/admin/.profile
  put_dir 0755 0:0 /root/.nix-defexpr
  put_oddities
}

put_nix_state() {
  local dir
  for dir in nix nix/db nix/gcroots nix/gcroots/auto nix/profiles nix/profiles/per-user nix/profiles/per-user/root \
    nix/temproots nix/userpool log log/nix; do
    [ "$dir" != nix ] || put_dir 0755 0:0 /nix/var
    put_dir 0755 0:0 "/nix/var/$dir"
  done
  printf 'SQLite format 3 stands here\n' | put_file 0644 0:0 /nix/var/nix/db/db.sqlite
  printf '' | put_file 0600 0:0 /nix/var/nix/db/big-lock
  put_link /nix/var/nix/profiles/system system-1-link
  put_link /nix/var/nix/profiles/system-1-link "$system"
  # Dangling until the system runs.
  put_link /nix/var/nix/gcroots/current-system /run/current-system
  put_link /nix/var/nix/gcroots/profiles /nix/var/nix/profiles
}

# /etc as setup-etc.pl and update-users-groups.pl leave it; nixos-install makes /etc/NIXOS, and the build removed
# machine-id again.
put_activated_etc() {
  put_dir 0755 0:0 /etc
  put_link /etc/static "$etc/etc"
  local entry
  for entry in nix nixos pam.d ssh systemd; do put_dir 0755 0:0 "/etc/$entry"; done
  for entry in "${ETC_LINKS[@]}" systemd/system terminfo; do put_link "/etc/$entry" "/etc/static/$entry"; done
  put_link /etc/mtab /proc/mounts
  printf 'root ALL=(ALL:ALL) SETENV: ALL\n%%wheel ALL=(ALL:ALL) SETENV: ALL\n' | put_file 0440 0:0 /etc/sudoers
  printf 'sudoers\n' | put_file 0644 0:0 /etc/.clean
  printf '' | put_file 0644 0:0 /etc/NIXOS
  printf '{ ... }: { }\n' | put_file 0644 0:0 /etc/nixos/configuration.nix
  put_file 0644 0:0 /etc/passwd <<'PASSWD'
root:x:0:0:System administrator:/root:/run/current-system/sw/bin/bash
messagebus:x:4:4:D-Bus system message bus daemon user:/run/dbus:/run/current-system/sw/bin/nologin
systemd-network:x:152:152::/var/empty:/run/current-system/sw/bin/nologin
systemd-resolve:x:153:153::/var/empty:/run/current-system/sw/bin/nologin
systemd-timesync:x:154:154::/var/empty:/run/current-system/sw/bin/nologin
wpa_supplicant:x:997:995::/var/empty:/run/current-system/sw/bin/nologin
sshd:x:998:996:SSH privilege separation user:/var/empty:/run/current-system/sw/bin/nologin
nscd:x:999:999:Name service cache daemon user:/var/empty:/run/current-system/sw/bin/nologin
admin:x:1000:100::/home/admin:/run/current-system/sw/bin/bash
nixbld1:x:30001:30000:Nix build user 1:/var/empty:/run/current-system/sw/bin/nologin
nixbld2:x:30002:30000:Nix build user 2:/var/empty:/run/current-system/sw/bin/nologin
nobody:x:65534:65534:Unprivileged account (don't use!):/var/empty:/run/current-system/sw/bin/nologin
PASSWD
  put_file 0644 0:0 /etc/group <<'GROUP'
root:x:0:
wheel:x:1:admin
kmem:x:2:
tty:x:3:
messagebus:x:4:
disk:x:6:
audio:x:17:
video:x:26:
adm:x:55:
systemd-journal:x:62:
keys:x:96:
users:x:100:
systemd-network:x:152:
systemd-resolve:x:153:
systemd-timesync:x:154:
input:x:174:
kvm:x:302:
render:x:303:
shadow:x:318:
wpa_supplicant:x:995:
sshd:x:996:
nscd:x:999:
nixbld:x:30000:nixbld1,nixbld2
nogroup:x:65534:
GROUP
  # The password file did not stand when this was made, so everybody has `!`: the shadow trap. In perl's hash order.
  put_file 0640 0:318 /etc/shadow <<'SHADOW'
systemd-timesync:!:1::::::
nscd:!:1::::::
admin:!:1::::::
nixbld2:!:1::::::
root:!:1::::::
nobody:!:1::::::
sshd:!:1::::::
systemd-resolve:!:1::::::
wpa_supplicant:!:1::::::
messagebus:!:1::::::
systemd-network:!:1::::::
nixbld1:!:1::::::
SHADOW
  printf 'admin:100000:65536\n' | put_file 0644 0:0 /etc/subuid
  printf 'admin:100000:65536\n' | put_file 0644 0:0 /etc/subgid
}

put_var() { # where /var/run leads
  local dir
  put_dir 0755 0:0 /var
  for dir in cache db lib lib/nixos lib/systemd log spool; do put_dir 0755 0:0 "/var/$dir"; done
  put_dir 0711 0:0 /var/db/sudo
  put_dir 0700 0:0 /var/lib/private
  put_dir 1777 0:0 /var/tmp
  put_link /var/run "$1"
  put_link /var/lock "$1/lock"
  printf '{"admin":1000,"nscd":999,"sshd":998,"wpa_supplicant":997}' | put_file 0644 0:0 /var/lib/nixos/uid-map
  printf '{"nscd":999,"shadow":318,"sshd":996,"wpa_supplicant":995}' | put_file 0644 0:0 /var/lib/nixos/gid-map
  printf 'admin messagebus nixbld1 nixbld2 nobody nscd root sshd' | put_file 0644 0:0 /var/lib/nixos/declarative-users
  printf 'adm audio disk input keys kmem kvm messagebus' | put_file 0644 0:0 /var/lib/nixos/declarative-groups
  # systemd's tmpfiles: the immutable flag (with the extent flag of every inode here), and a group's ACL.
  put_dir 0555 0:0 /var/empty
  put_field /var/empty flags 0x80010
  put_dir 2755 0:62 /var/log/journal
  local acl
  for acl in access default; do
    # Version 2; owner rwx, group adm (55) r-x, owning group r-x, mask r-x, others r-x.
    printf '%b' '\x02\x00\x00\x00' '\x01\x00\x07\x00\xff\xff\xff\xff' '\x04\x00\x05\x00\xff\xff\xff\xff' \
      '\x08\x00\x05\x00\x37\x00\x00\x00' '\x10\x00\x05\x00\xff\xff\xff\xff' '\x20\x00\x05\x00\xff\xff\xff\xff' |
      put_xattr /var/log/journal "system.posix_acl_$acl"
  done
}

# What no build puts there, and a writer must leave as it is: odd owners and modes, attributes inside and outside the
# inode, times of a nanosecond, hard links, a device, a pipe, links that lead nowhere, files of many extents.
put_oddities() {
  local odd=/var/lib/oddities
  put_dir 0750 998:996 $odd
  printf 'owned by ids that no line of passwd has\n' | put_file 0604 70000:80000 $odd/foreign-owner
  printf 'set-id bits\n' | put_file 6755 0:318 $odd/set-id
  printf 'nobody may read this\n' | put_file 0000 1:1 $odd/no-rights
  printf 'written at a nanosecond\n' | put_file 0644 0:0 $odd/nanoseconds
  put_field $odd/nanoseconds mtime @1700000000
  # Nanoseconds in the upper 30 bits, the epoch in the lower 2.
  put_field $odd/nanoseconds mtime_extra $((123456789 * 4))
  put_field $odd/nanoseconds atime_extra $((987654321 * 4))
  printf 'two names\n' | put_file 0640 0:55 $odd/linked
  put_hard_link /var/lib/linked-too $odd/linked 2
  put_char_device 0666 0:0 $odd/null 1 3
  put_pipe 0622 0:0 $odd/pipe
  put_link $odd/dangling ../gone/away
  put_link $odd/dangling-absolute /persist/secrets
  put_link $odd/round-1 round-2
  put_link $odd/round-2 round-1
  put_link $odd/to-etc /etc

  printf 'with attributes\n' | put_file 0755 0:0 $odd/attributes
  printf 'small' | put_xattr $odd/attributes user.small
  # cap_net_bind_service+ep, revision 2.
  printf '%b' '\x01\x00\x00\x02' '\x00\x04\x00\x00' '\x00\x00\x00\x00' '\x00\x00\x00\x00' '\x00\x00\x00\x00' |
    put_xattr $odd/attributes security.capability
  printf 'with attributes that take a block\n' | put_file 0644 1000:100 $odd/attributes-block
  printf 'x%.0s' {1..1500} | put_xattr $odd/attributes-block user.large

  # Data in every other run of blocks: more extents than an inode holds, so a tree of them.
  local part
  for part in {1..24}; do
    seq -f "part $part line %04.0f of a file with holes" 120
    head -c $((3 * 4096)) /dev/zero
  done | put_file 0600 0:0 $odd/holes
  # The checksum of its extent block is seeded with the generation.
  put_field $odd/holes generation 0
  seq -f 'journal line %04.0f' 300 | put_file 0640 0:62 $odd/reserved
  put_reserve $odd/reserved 2 31
  printf '' | put_file 0644 0:0 $odd/empty
}

# ---------------------------------------------------------------- the root of sd-image, never activated

root_of_sd_image() {
  put_store
  put_dir 0755 0:0 /boot
  put_dir 0755 0:0 /boot/extlinux
  put_dir 0755 0:0 /boot/nixos
  local hash=${kernel#/nix/store/} initrd_hash=${initrd#/nix/store/}
  seq -f 'kernel line %06.0f of a file that takes some room' 20000 | put_file 0644 0:0 "/boot/nixos/$hash-Image"
  seq -f 'initrd line %06.0f' 9000 | put_file 0644 0:0 "/boot/nixos/$initrd_hash-initrd"
  put_file 0644 0:0 /boot/extlinux/extlinux.conf <<CONF
# Generated file, all changes will be lost on nixos-rebuild!

DEFAULT nixos-default

MENU TITLE ------------------------------------------------------------
TIMEOUT 30

LABEL nixos-default
  MENU LABEL NixOS - Default
  LINUX ../nixos/$hash-Image
  INITRD ../nixos/$initrd_hash-initrd
  APPEND init=$system/init loglevel=4 lsm=landlock,yama,bpf
CONF
  printf '%s\n' "$system" '' 0 | put_file 0644 0:0 /nix-path-registration
}

# ---------------------------------------------------------------- FAT

fat_esp() { # DIRECTORY
  mkdir -p "$1/EFI/BOOT" "$1/EFI/systemd" "$1/EFI/nixos" "$1/loader/entries"
  printf 'systemd-boot stands here\n' | tee "$1/EFI/BOOT/BOOTX64.EFI" >"$1/EFI/systemd/systemd-bootx64.efi"
  printf 'timeout 5\ndefault nixos-generation-1.conf\nconsole-mode keep\n' >"$1/loader/loader.conf"
  printf 'title NixOS\nversion Generation 1\nlinux /EFI/nixos/%s-bzImage.efi\noptions init=%s/init loglevel=4\n' \
    "${kernel#/nix/store/}" "$system" >"$1/loader/entries/nixos-generation-1.conf"
  printf 'kernel stands here\n' >"$1/EFI/nixos/${kernel#/nix/store/}-bzImage.efi"
}

fat_firmware() { # DIRECTORY
  printf 'arm_64bit=1\nkernel=u-boot-rpi4.bin\n' >"$1/config.txt"
  printf 'u-boot stands here\n' >"$1/u-boot-rpi4.bin"
}
