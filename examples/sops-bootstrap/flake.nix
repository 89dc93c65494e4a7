{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    sops-nix = {
      url = "github:Mic92/sops-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    deaddrop = {
      url = "github:deaddrop/deaddrop";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    { self, nixpkgs, sops-nix, deaddrop }:
    let
      node =
        name: address: more:
        nixpkgs.lib.nixosSystem {
          system = "x86_64-linux";
          modules = [
            sops-nix.nixosModules.sops
            deaddrop.nixosModules.default
            ./node.nix
            more
            {
              networking.hostName = name;
              deaddrop.ssh = "root@${address}";
            }
          ];
        };
      joins.services.k3s.serverAddr = "https://192.168.1.11:6443";
    in
    {
      nixosConfigurations = {
        node1 = node "node1" "192.168.1.11" { services.k3s.clusterInit = true; };
        node2 = node "node2" "192.168.1.12" joins;
        node3 = node "node3" "192.168.1.13" joins;
      };

      deaddrop = deaddrop.lib.manifest self.nixosConfigurations;
    };
}
