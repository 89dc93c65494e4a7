# The manifest of all nodes, from a flake's nixosConfigurations: a host is named as its configuration. Those without
# the module are left out.
#
#   outputs.deaddrop = deaddrop.lib.manifest self.nixosConfigurations;
configurations:
let
  inherit (builtins) all attrNames concatLists concatStringsSep filter head length listToAttrs mapAttrs;

  part =
    host:
    let
      inherit (configurations.${host}.config.deaddrop) manifest;
    in
    if manifest.errors == [ ] then
      manifest
    else
      throw "deaddrop: nixosConfigurations.${host}:\n- ${concatStringsSep "\n- " manifest.errors}";
  hosts = filter (host: configurations.${host}.options ? deaddrop) (attrNames configurations);
  parts = listToAttrs (
    map (name: {
      inherit name;
      value = part name;
    }) hosts
  );

  # What the hosts say below a key, by name: `[ { host; value; } … ]`.
  said =
    key:
    builtins.zipAttrsWith (_: all: all) (
      map (
        host:
        mapAttrs (_: value: { inherit host value; }) parts.${host}.${key}
      ) hosts
    );

  # A source is one for all hosts: its password is asked for once.
  source =
    name: all:
    let
      first = head all;
      others = filter (other: other.value != first.value) all;
    in
    if others == [ ] then
      first.value
    else
      throw (
        "deaddrop: the source `${name}` is not the same on ${first.host} and ${(head others).host}. "
        + "Declare it once, in a module of both, or give one of them another name."
      );

  # Those that say the same are one group.
  groups =
    all:
    if all == [ ] then
      [ ]
    else
      let
        parted = builtins.partition (one: one.value == (head all).value) all;
      in
      [ parted.right ] ++ groups parted.wrong;

  several = filter (same: length same > 1);

  # The token of a cluster is rotated on all of its hosts at once, which are those of one entry.
  whole =
    name: forms:
    let
      tokens = filter (token: token.value ? kind && token.value ? from) (map head forms);
      parted = several (builtins.attrValues (builtins.groupBy (token: builtins.toJSON token.value.from) tokens));
      differing = map (token: token.host) (head parted);
    in
    if parted == [ ] then
      forms
    else
      throw (
        "deaddrop: the token `${name}` of a cluster is not declared alike on ${concatStringsSep " and " differing}. "
        + "Give it one path, one owner and the same units on all hosts of the cluster: one rotation changes it on all."
      );

  # A secret that is the same wherever it is has its own name, else each of its forms is named after the first host
  # that has it.
  entries =
    name: all:
    let
      forms = whole name (groups all);
    in
    map (group: {
      name = if length forms == 1 then name else "${name}@${(head group).host}";
      value =
        (head group).value
        // (if length group == length hosts then { } else { hosts = map (one: one.host) group; });
    }) forms;
  secrets = concatLists (builtins.attrValues (mapAttrs entries (said "secrets")));
  twice = several (builtins.attrValues (builtins.groupBy (entry: entry.name) secrets));

  # What all hosts allow is allowed without a host too: a source is of none.
  reasons = builtins.zipAttrsWith (_: all: all) (map (host: parts.${host}.host.allow or { }) hosts);
  isOfSome = code: length reasons.${code} < length hosts;
in
{
  version = 1;
  allow = mapAttrs (_: head) (removeAttrs reasons (filter isOfSome (attrNames reasons)));
  sources = mapAttrs source (said "sources");
  hosts = mapAttrs (_: part: part.host) parts;
  secrets =
    if twice == [ ] then
      listToAttrs secrets
    else
      throw "deaddrop: two secrets would be named `${(head (head twice)).name}`. Give one of them another name.";
  serial = attrNames (
    listToAttrs (
      map (name: {
        inherit name;
        value = null;
      }) (concatLists (map (host: parts.${host}.serial) hosts))
    )
  );
}
