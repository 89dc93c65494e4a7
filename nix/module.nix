# The NixOS module: `deaddrop.secrets.NAME`, with the manifest's keys as options (docs/nixos-module.md). It changes
# nothing on the node: it says where each file will be, checks what can be checked here, and is what nix/manifest.nix
# makes the manifest from.
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkIf mkOption types;
  keys = import ./keys.nix { inherit lib; };
  cfg = config.deaddrop;
  # What a system of another age does not have is off.
  etc = {
    enable = config.system.etc.overlay.enable or false;
    mutable = config.system.etc.overlay.mutable or true;
  };

  # Where a secret without a path goes.
  directory =
    if cfg.persist_root != null then
      "${lib.removeSuffix "/" cfg.persist_root}/secrets"
    else if etc.enable && !etc.mutable then
      "/var/lib/secrets"
    else
      "/etc/secrets";

  secret =
    { name, config, ... }:
    let
      # What describes a file does not go with its absence.
      shared = lib.genAttrs [ "owner" "group" "mode" ] (
        key: mkIf (config.absent != true) (mkDefault cfg.defaults.${key})
      );
    in
    {
      options = keys.secret;
      config = shared // {
        path = mkDefault "${directory}/${name}";
        settle = mkDefault cfg.defaults.settle;
      };
    };

  # Keys that are not set are none of the manifest.
  set =
    value:
    if builtins.isAttrs value then
      lib.filterAttrs (_: value: value != null && value != [ ] && value != { }) (builtins.mapAttrs (_: set) value)
    else if builtins.isList value then
      map set value
    else
      value;

  inStore = lib.hasPrefix "${builtins.storeDir}/";
  one = list: builtins.length list == 1;

  # Users and groups by name, which have to exist. A number is left to the node.
  names =
    all: lib.mapAttrsToList (name: entry: entry.name or name) (lib.filterAttrs (_: entry: entry.enable or true) all);
  known = {
    user = names config.users.users;
    group = names config.users.groups;
  };
  unknown =
    where: kind: value:
    let
      isName = builtins.isString value && builtins.match "[0-9]+" value == null;
    in
    lib.optional (isName && !builtins.elem value known.${kind})
      "${where}: there is no ${kind} `${value}`. Declare users.${kind}s.${value}, or write a number.";

  # What is wrong with a secret.
  secretErrors =
    name: secret:
    let
      option = key: "deaddrop.secrets.${name}.${key}";
      given = builtins.filter (key: secret.${key} != null) [
        "from"
        "template"
        "template_file"
        "generate"
      ];
      readsStore =
        if builtins.isString secret.from then
          builtins.match "[^:]*:${builtins.storeDir}/.*" secret.from != null
        else
          secret.from != null && inStore secret.from.item;
      directoryOwner = lib.splitString ":" (toString secret.directory_owner);
    in
    lib.optional (inStore secret.path)
      "${option "path"} is in the store, where everybody can read it. Write a path of the node, in quotes."
    ++ lib.optional readsStore
      "${option "from"} names a file in the store, where everybody can read it. ${ownPath}"
    ++ lib.optional (secret.absent != true && !one given) (
      "deaddrop.secrets.${name} has ${if given == [ ] then "none" else lib.concatStringsSep " and " given}: "
      + "it needs one of from, template, template_file and generate."
    )
    ++ unknown (option "owner") "user" secret.owner
    ++ unknown (option "group") "group" secret.group
    ++ lib.optionals (secret.directory_owner != null) (
      unknown (option "directory_owner") "user" (builtins.head directoryOwner)
      ++ lib.concatMap (unknown (option "directory_owner") "group") (builtins.tail directoryOwner)
    );
  ownPath = "Write a path of the machine that runs deaddrop, in quotes.";

  # What is wrong with a source. An encrypted file may be in the store.
  sourceErrors =
    name: source:
    let
      isEncrypted =
        source.password != null
        || source.key_file != null
        || source.identity != null
        || builtins.elem source.type [
          "sops"
          "pass"
          "gopass"
          "passage"
        ];
      files = {
        inherit (source) key_file identity;
        path = if isEncrypted then null else source.path;
        "password.file" = source.password.file or null;
      };
    in
    lib.mapAttrsToList (
      key: _: "deaddrop.sources.${name}.${key} is in the store, where everybody can read it. ${ownPath}"
    ) (lib.filterAttrs (_: file: file != null && inStore file) files);

  byPath = builtins.groupBy (name: builtins.unsafeDiscardStringContext cfg.secrets.${name}.path) (
    builtins.attrNames cfg.secrets
  );
  pathErrors = lib.mapAttrsToList (
    path: names: "deaddrop.secrets: ${lib.concatStringsSep " and " names} have one path, ${path}."
  ) (lib.filterAttrs (_: names: !one names) byPath);

  # The shadow trap: activation keeps a line of /etc/shadow that stands, and an image that was activated when it was
  # built has one for each user. userborn and sysusers make the users at the first boot; under an overlay the image's
  # shadow file does not show.
  keepsShadow =
    (config.users.mutableUsers or true)
    && !etc.enable
    && !(config.services.userborn.enable or false)
    && !(config.systemd.sysusers.enable or false);
  allows = one: (one.allow.NX101 or null) != null;
  trapped = lib.filterAttrs (
    _: user:
    builtins.any (
      secret: secret.path == user.hashedPasswordFile or null && secret.apply_password != true && !allows secret
    ) (builtins.attrValues cfg.secrets)
  ) config.users.users;
  shadowTrap = lib.mapAttrsToList (name: _: ''
    NX101: users.users.${name}.hashedPasswordFile may never be read. With users.mutableUsers = true NixOS keeps the
    user's line of /etc/shadow, and an image that was activated when it was built has one, with `!`.
    Set users.mutableUsers = false, or apply_password = true on the secret. If it is right as it is:
    deaddrop.allow.NX101 = "why";'') trapped;
in
{
  options.deaddrop = keys.host // {
    inherit (keys) sources serial;
    secrets = mkOption {
      type = types.attrsOf (types.submodule secret);
      default = { };
      description = "The files to write on this node, by a name of your choice.";
    };
    defaults = mkOption {
      type = types.submodule { options = keys.defaults; };
      default = { };
      description = "What a secret has that does not set it itself.";
    };
    manifest = mkOption {
      type = types.raw;
      internal = true;
      readOnly = true;
      description = "What this node adds to the manifest, for deaddrop.lib.manifest.";
    };
  };

  config = {
    deaddrop.persist_root = mkDefault cfg.defaults.persist_root;
    deaddrop.manifest = {
      errors =
        lib.concatLists (lib.mapAttrsToList secretErrors cfg.secrets)
        ++ lib.concatLists (lib.mapAttrsToList sourceErrors cfg.sources)
        ++ pathErrors;
      host = set (builtins.intersectAttrs keys.host cfg);
      secrets = builtins.mapAttrs (_: set) cfg.secrets;
      sources = builtins.mapAttrs (_: set) cfg.sources;
      inherit (cfg) serial;
    };
    assertions = map (message: {
      assertion = false;
      inherit message;
    }) cfg.manifest.errors;
    warnings = lib.optionals (keepsShadow && !allows cfg) shadowTrap;
  };
}
