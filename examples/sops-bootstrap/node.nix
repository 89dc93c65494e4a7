# What all nodes are. sops-nix has their secrets; deaddrop gives the one key that decrypts them.
{ config, ... }:
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

  # The node's host key, from the vault: its secrets are encrypted for it before the image is built, so that they are
  # there at the first boot.
  deaddrop.sources.vault = {
    type = "bitwarden";
    path = "homelab.json";
    password = "ask";
  };
  deaddrop.secrets.host-key = {
    path = "/etc/ssh/ssh_host_ed25519_key";
    from = "vault:{host} host key#private_key";
    used_by = "sops.age.sshKeyPaths";
  };
  services.openssh = {
    enable = true;
    hostKeys = [
      {
        type = "ed25519";
        inherit (config.deaddrop.secrets.host-key) path;
      }
    ];
  };
  # Your own public key, for `deaddrop rotate` and for you.
  users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@laptop" ];

  # All else is sops-nix's, as without deaddrop.
  sops.defaultSopsFile = ./secrets.yaml;
  sops.age.sshKeyPaths = [ config.deaddrop.secrets.host-key.path ];
  sops.secrets.admin-password.neededForUsers = true;
  sops.secrets.k3s-token = { };
  sops.secrets.deploy-key = { };

  users.mutableUsers = false;
  users.users.admin = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
    hashedPasswordFile = config.sops.secrets.admin-password.path;
  };

  services.k3s = {
    enable = true;
    role = "server";
    tokenFile = config.sops.secrets.k3s-token.path;
  };
  networking.firewall.allowedTCPPorts = [
    2379
    2380
    6443
    10250
  ];
  networking.firewall.allowedUDPPorts = [ 8472 ];

  programs.ssh.extraConfig = ''
    Host git.example.org
      IdentityFile ${config.sops.secrets.deploy-key.path}
      IdentitiesOnly yes
  '';
  # As the forge publishes it.
  programs.ssh.knownHosts."git.example.org".publicKey = "ssh-ed25519 AAAA…";
  system.autoUpgrade = {
    enable = true;
    flake = "git+ssh://git@git.example.org/homelab/nixos.git";
  };
}
