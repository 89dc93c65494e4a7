# The options of NixOS that nix/module.nix reads, and whole trees of others that the examples set.
{ lib, config, ... }:
let
  inherit (lib) mkOption types;
  of = type: default: mkOption { inherit type default; };
  tree = of (types.attrsOf types.anything) { };
  account = { name, ... }: {
    options = {
      name = of types.str name;
      enable = of types.bool true;
      uid = of (types.nullOr types.raw) null;
      gid = of (types.nullOr types.raw) null;
      hashedPasswordFile = of (types.nullOr types.str) null;
      group = of types.str "";
      isNormalUser = of types.bool false;
      isSystemUser = of types.bool false;
      extraGroups = of (types.listOf types.str) [ ];
      openssh = tree;
    };
  };
  accounts = of (types.attrsOf (types.submodule account)) { };
in
{
  options = {
    assertions = of (types.listOf types.raw) [ ];
    warnings = of (types.listOf types.str) [ ];
    users.users = accounts;
    users.groups = accounts;
    users.mutableUsers = of types.bool true;
    system.etc.overlay.enable = of types.bool false;
    system.etc.overlay.mutable = of types.bool true;
    system.autoUpgrade = tree;
    system.stateVersion = of types.str "";
    system.build = tree;
    services.userborn.enable = of types.bool false;
    services.openssh = tree;
    services.k3s = tree;
    systemd.sysusers.enable = of types.bool false;
    networking = tree;
    boot = tree;
    fileSystems = tree;
    programs = tree;
  };
  config = {
    system.build.toplevel.drvPath = "a derivation";
    users.users.root = { };
    users.groups = {
      root = { };
      users = { };
      keys = { };
    };
  };
}
