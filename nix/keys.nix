# The manifest's keys as options, made from its schema: names, types and descriptions are those of deaddrop itself.
# What a type cannot say (regular expressions that Nix does not know, keys that exclude each other) is left to
# `deaddrop check`.
{ lib }:
let
  inherit (lib) mkOption types;
  schema = builtins.fromJSON (builtins.readFile ../docs/manifest.schema.json);

  follow =
    form:
    if form ? "$ref" then
      follow schema."$defs".${lib.removePrefix "#/$defs/" form."$ref"}
    else
      form;

  is = name: form: builtins.elem name (lib.toList (form.type or [ ]));

  # A pattern of JSON Schema is searched, one of strMatching has to match the whole text. A backslash begins a class
  # that POSIX does not have.
  text =
    { pattern ? "", ... }:
    if pattern == "" || lib.hasInfix "\\" pattern then
      types.str
    else
      types.strMatching (
        (if lib.hasPrefix "^" pattern then "" else ".*")
        + lib.removePrefix "^" (lib.removeSuffix "$" pattern)
        + (if lib.hasSuffix "$" pattern then "" else ".*")
      );

  # The keys of all forms, each once; a key with one word in each form, such as a source's `type`, may be any of them.
  union =
    forms:
    lib.zipAttrsWith (
      _: all: if builtins.all (form: form ? const) all then { oneOf = all; } else builtins.head all
    ) (map (form: form.properties) forms);

  # The type of a form.
  type =
    given:
    let
      form = follow given;
      forms = map follow (form.anyOf or form.oneOf or [ ]);
    in
    if form ? const then
      types.enum [ form.const ]
    else if form ? enum then
      types.enum form.enum
    else if form ? properties then
      types.submodule { options = options form; }
    else if form ? propertyNames.enum then
      # A mapping whose keys are known, such as the codes of `allow`.
      types.submodule { options = lib.genAttrs form.propertyNames.enum (_: option false form.additionalProperties); }
    else if is "object" form then
      types.attrsOf (type form.additionalProperties)
    else if is "array" form then
      types.listOf (type form.items)
    else if is "integer" form then
      types.ints.between form.minimum form.maximum
    else if is "boolean" form then
      types.bool
    else if is "string" form then
      text form
    else if builtins.all (form: form ? const) forms then
      types.enum (map (form: form.const) forms)
    else if builtins.all (form: form ? properties) forms then
      type {
        properties = union forms;
        required = lib.foldl' lib.intersectLists (builtins.head forms).required (map (form: form.required) forms);
      }
    else if map (form: form.type or null) forms == [ "string" "array" ] then
      # One text or a list of them.
      types.coercedTo types.str lib.singleton (types.listOf types.str)
    else
      lib.foldl' types.either (type (builtins.head forms)) (map type (builtins.tail forms));

  # What a key is where it is not set: nothing of it comes into the manifest. Several modules can add to lists and
  # mappings.
  unset = {
    listOf = [ ];
    coercedTo = [ ];
    attrsOf = { };
  };

  option =
    isRequired: form:
    let
      plain = type form;
    in
    mkOption (
      {
        description = form.description or (follow form).description;
      }
      // (
        if isRequired then
          { type = plain; }
        else if unset ? ${plain.name} then
          {
            type = plain;
            default = unset.${plain.name};
          }
        else
          {
            type = types.nullOr plain;
            default = null;
          }
      )
    );

  options = form: builtins.mapAttrs (name: option (builtins.elem name (form.required or [ ]))) form.properties;
  keysOf = form: options (follow form);
in
{
  # The options of one secret, one host, and `defaults`.
  secret = removeAttrs (keysOf schema."$defs".secret) [ "hosts" ];
  host = keysOf schema."$defs".host;
  defaults = keysOf schema."$defs".defaults;
  inherit (keysOf schema) sources serial;
}
