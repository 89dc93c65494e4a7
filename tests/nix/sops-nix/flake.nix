# Stands for sops-nix where the tests evaluate our flakes: the options that examples/ sets, and the paths that it gives.
{
  outputs = _: {
    nixosModules.sops =
      { lib, ... }:
      let
        inherit (lib) mkOption types;
      in
      {
        options.sops = {
          defaultSopsFile = mkOption { type = types.raw; };
          age.sshKeyPaths = mkOption { type = types.listOf types.str; };
          secrets = mkOption {
            type = types.attrsOf (
              types.submodule (
                { name, config, ... }:
                {
                  options.neededForUsers = mkOption {
                    type = types.bool;
                    default = false;
                  };
                  options.path = mkOption {
                    type = types.str;
                    default = "/run/secrets${if config.neededForUsers then "-for-users" else ""}/${name}";
                  };
                }
              )
            );
          };
        };
      };
  };
}
