# What all nodes are.
{ config, ... }:
let
  inherit (config.deaddrop) secrets;
  forge = "git.example.org";
in
{
  system.stateVersion = "25.11";

  # The disk, for the image and for what an upgrade builds on the node: `build-image --image-variant raw-efi` makes file
  # systems with these labels.
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
    autoResize = true;
  };
  fileSystems."/boot" = {
    device = "/dev/disk/by-label/ESP";
    fsType = "vfat";
  };
  boot.loader.systemd-boot.enable = true;
  boot.growPartition = true;

  # Where values come from, on the machine that runs deaddrop: a Bitwarden export, "Password protected".
  deaddrop.sources.vault = {
    type = "bitwarden";
    path = "homelab.json";
    password = "ask";
  };
  # One server after the other is rotated: two of three keep the cluster.
  deaddrop.tags = [ "server" ];
  deaddrop.serial = "server";

  # A user's password. With mutable users NixOS would keep the shadow line of the image.
  deaddrop.secrets.admin-password = {
    from = "vault:Homelab admin";
    hash = "yescrypt";
    used_by = "users.users.admin.hashedPasswordFile";
  };
  users.mutableUsers = false;
  users.users.admin = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
    hashedPasswordFile = secrets.admin-password.path;
  };

  # The cluster's token, the same on all nodes.
  deaddrop.secrets.k3s-token = {
    from = "vault:k3s token";
    kind = "k3s-token";
    used_by = "services.k3s.tokenFile";
    restart = "k3s.service";
  };
  services.k3s = {
    enable = true;
    role = "server";
    tokenFile = secrets.k3s-token.path;
  };
  networking.firewall.allowedTCPPorts = [
    2379
    2380
    6443
    10250
  ];
  networking.firewall.allowedUDPPorts = [ 8472 ];

  # A host key for each node, made in its image.
  deaddrop.secrets.host-key = {
    path = "/etc/ssh/ssh_host_ed25519_key";
    generate = "ssh-host-ed25519";
    used_by = "services.openssh.hostKeys";
  };
  services.openssh = {
    enable = true;
    hostKeys = [
      {
        type = "ed25519";
        inherit (secrets.host-key) path;
      }
    ];
  };
  # Your own public key, for `deaddrop rotate` and for you.
  users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@laptop" ];

  # Each node upgrades itself from the private repository, with a deploy key that is made in its image.
  deaddrop.secrets.deploy-key = {
    generate = "ssh-ed25519";
    used_by = "programs.ssh.extraConfig";
  };
  programs.ssh.extraConfig = ''
    Host ${forge}
      IdentityFile ${secrets.deploy-key.path}
      IdentitiesOnly yes
  '';
  # As the forge publishes it.
  programs.ssh.knownHosts.${forge}.publicKey = "ssh-ed25519 AAAA…";
  system.autoUpgrade = {
    enable = true;
    flake = "git+ssh://git@${forge}/homelab/nixos.git";
  };
}
