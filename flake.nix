{
  description = "Puts secrets into disk images offline, and rotates them on running nodes";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      each =
        f:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system: f self.packages.${system}.default nixpkgs.legacyPackages.${system}
        );
    in
    {
      packages = each (_: pkgs: { default = pkgs.callPackage ./nix/package.nix { }; });

      overlays.default = final: _: { deaddrop = final.callPackage ./nix/package.nix { }; };

      apps = each (
        package: _: {
          default = {
            type = "app";
            program = lib.getExe package;
            inherit (package) meta;
          };
        }
      );

      devShells = each (
        package: pkgs: {
          default = pkgs.mkShell {
            inputsFrom = [ package ];
            # Those of scripts/test that are no part of every system.
            packages = with pkgs; [
              cargo-nextest
              clippy
              e2fsprogs
              rust-analyzer
              rustfmt
              shellcheck
              util-linux
            ];
          };
        }
      );

      # The package, and what an example is on a real NixOS: its system evaluates, its manifest holds.
      checks = each (
        package: pkgs: {
          inherit package;
          example =
            let
              example = (import ./examples/k3s-homelab/flake.nix).outputs {
                self = example;
                deaddrop = self;
                inherit nixpkgs;
              };
              manifest = pkgs.writeText "secrets.json" (builtins.toJSON example.deaddrop);
              system = example.nixosConfigurations.node1.config.system.build.toplevel.drvPath;
            in
            builtins.seq system (
              pkgs.runCommand "deaddrop-example" { nativeBuildInputs = [ package ]; } ''
                deaddrop check -m ${manifest}
                touch $out
              ''
            );
        }
      );

      nixosModules.default = ./nix/module.nix;

      lib.manifest = import ./nix/manifest.nix;
    };
}
