# Stands for the flake of nixpkgs where the tests evaluate our flakes. Its lib is ./lib: lib.nix, or nixpkgs' own.
{
  outputs =
    { self }:
    let
      lib = import ./lib;
      # A package is what it is made from.
      packages = {
        lib = lib // {
          importTOML = file: builtins.fromTOML (builtins.readFile file);
          fileset.unions = files: files;
          fileset.toSource = source: source;
          licenses = {
            mit = "MIT";
            asl20 = "Apache-2.0";
          };
          platforms.linux = [ "x86_64-linux" ];
        };
        stdenv.buildPlatform.canExecute = _: true;
        stdenv.hostPlatform = null;
        rustPlatform.buildRustPackage = package: package;
        installShellFiles = null;
      };
    in
    {
      lib = lib // {
        nixosSystem =
          { modules, ... }: lib.evalModules { modules = [ ./nixos.nix ] ++ modules; };
      };
      legacyPackages.x86_64-linux = {
        callPackage = file: _: import file packages;
        writeText = _: text: text;
        runCommand =
          _: _: script:
          script;
      };
    };
}
