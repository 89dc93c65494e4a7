# The functions of nixpkgs' lib that nix/ and examples/ use, in our own words: nixpkgs is in no registry of packages.
# The tests run the same with nixpkgs' own (DEADDROP_NIXPKGS_LIB). It is strict: what it does not know is an error.
let
  inherit (builtins)
    all attrNames concatLists concatMap concatStringsSep elem elemAt filter foldl' head isAttrs isFunction isList
    isString length listToAttrs mapAttrs;

  optionals = condition: list: if condition then list else [ ];
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      rest = builtins.stringLength text - builtins.stringLength suffix;
    in
    rest >= 0 && builtins.substring rest (-1) text == suffix;

  # --------------------------------------------------------------------------------------------- properties

  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  property = value: if isAttrs value then value._type or "" else "";

  # The definitions in a value, each with its priority: a lower number wins.
  discharge =
    priority: value:
    {
      "if" = optionals value.condition (discharge priority value.content);
      "merge" = concatMap (discharge priority) value.contents;
      "override" = discharge value.priority value.content;
    }
    .${property value} or [ { inherit priority value; } ];

  # A property of a set of options is one of each option in it, so that no condition is needed to see its names.
  pushDown =
    value:
    {
      "if" = map (mapAttrs (_: mkIf value.condition)) (pushDown value.content);
      "merge" = concatMap pushDown value.contents;
      "override" = map (mapAttrs (_: mkOverride value.priority)) (pushDown value.content);
    }
    .${property value} or [ value ];

  # --------------------------------------------------------------------------------------------- types

  show = concatStringsSep ".";

  # The value that definitions of one option give together.
  mergeDefinitions =
    path: type: definitions:
    let
      found = concatMap (discharge 100) definitions;
      lowest = foldl' (low: one: if one.priority < low then one.priority else low) 10000 found;
      values = map (one: one.value) (filter (one: one.priority == lowest) found);
      wrong = filter (value: !type.check value) values;
    in
    if found == [ ] then
      throw "The option `${show path}' was accessed but has no value defined. Try setting the option."
    else if wrong != [ ] then
      throw "A definition for option `${show path}' is not of type `${type.description}'."
    else
      type.merge path values;

  # Whether definitions are left once conditions are seen.
  isSet = definition: discharge 100 definition != [ ];

  mergeEqual =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${show path}' has conflicting definition values.";
  simple = name: description: check: {
    inherit name description check;
    merge = mergeEqual;
  };

  types = rec {
    str = simple "str" "string" isString;
    strMatching =
      pattern:
      simple "strMatching" "string matching the pattern ${pattern}" (
        value: isString value && builtins.match pattern value != null
      );
    bool = simple "bool" "boolean" builtins.isBool;
    ints.between =
      low: high:
      simple "intBetween" "integer between ${toString low} and ${toString high} (both inclusive)" (
        value: builtins.isInt value && value >= low && value <= high
      );
    enum = values: simple "enum" "one of ${builtins.toJSON values}" (value: elem value values);
    raw = simple "raw" "raw value" (_: true) // {
      merge = path: values: if length values == 1 then head values else throw "${show path} is defined twice.";
    };
    # Sets are merged, lists put together, all else has to be the same.
    anything = simple "anything" "anything" (_: true) // {
      merge =
        path: values:
        if all isAttrs values then
          (attrsOf anything).merge path values
        else if all isList values then
          concatLists values
        else
          mergeEqual path values;
    };
    nullOr = type: {
      name = "nullOr";
      description = "null or (${type.description})";
      check = value: value == null || type.check value;
      merge =
        path: values:
        if all (value: value == null) values then
          null
        else if elem null values then
          throw "The option `${show path}' is defined both null and not null."
        else
          type.merge path values;
    };
    listOf = type: {
      name = "listOf";
      description = "list of (${type.description})";
      check = isList;
      merge = path: values: map (value: mergeDefinitions (path ++ [ "*" ]) type [ value ]) (concatLists values);
    };
    attrsOf = type: {
      name = "attrsOf";
      description = "attribute set of (${type.description})";
      check = isAttrs;
      merge =
        path: values:
        let
          given = builtins.zipAttrsWith (_: all: all) (concatMap pushDown values);
          left = filter (name: builtins.any isSet given.${name}) (attrNames given);
        in
        genAttrs left (name: mergeDefinitions (path ++ [ name ]) type given.${name});
    };
    either = one: other: {
      name = "either";
      description = "(${one.description}) or (${other.description})";
      check = value: one.check value || other.check value;
      merge =
        path: values:
        if all one.check values then
          one.merge path values
        else if all other.check values then
          other.merge path values
        else
          mergeEqual path values;
    };
    coercedTo = from: f: to: {
      name = "coercedTo";
      description = "(${to.description}) or (${from.description}) convertible to it";
      check = value: to.check value || from.check value;
      merge = path: values: to.merge path (map (value: if from.check value then f value else value) values);
    };
    submodule = module: {
      name = "submodule";
      description = "submodule";
      check = value: isAttrs value || isFunction value;
      merge =
        path: values:
        (evalModules {
          prefix = path;
          modules = [ module ] ++ values;
          specialArgs.name = elemAt path (length path - 1);
        }).config;
    };
  };

  # --------------------------------------------------------------------------------------------- modules

  isOption = value: property value == "option";

  evalModules =
    { modules, specialArgs ? { }, prefix ? [ ] }:
    let
      args = specialArgs // { inherit lib config options; };
      called =
        module:
        if isFunction module then
          let
            wanted = builtins.functionArgs module;
          in
          called (module (if wanted == { } then args else builtins.intersectAttrs wanted args))
        else if isAttrs module then
          module
        else
          called (import module);
      # Each module in one form, those that it imports before it.
      collect =
        given:
        let
          module = called given;
          isWhole = module ? options || module ? config;
        in
        concatMap collect (module.imports or [ ])
        ++ [
          {
            options = module.options or { };
            config = if isWhole then module.config or { } else removeAttrs module [ "imports" ];
          }
        ];
      all = concatMap collect modules;
      options = declared prefix (map (module: module.options) all);
      config = values prefix options (concatMap (module: pushDown module.config) all);
    in
    {
      inherit config options;
    };

  # The tree of all declared options.
  declared =
    path: trees:
    builtins.zipAttrsWith (
      name: found:
      if !builtins.any isOption found then
        declared (path ++ [ name ]) found
      else if length found == 1 then
        head found
      else
        throw "The option `${show (path ++ [ name ])}' is already declared."
    ) trees;

  # The values of a tree of options.
  values =
    path: options: definitions:
    let
      unknown = filter (name: !(options ? ${name})) (concatMap attrNames definitions);
      value =
        name: option:
        let
          here = path ++ [ name ];
          given = concatMap (set: optionals (set ? ${name}) [ set.${name} ]) definitions;
          standard = optionals (option ? default) [ (mkOverride 1500 option.default) ];
        in
        if !isOption option then
          values here option (concatMap pushDown given)
        else if option.readOnly or false && length given > 1 then
          throw "The option `${show here}' is read-only, but it's set multiple times."
        else
          mergeDefinitions here option.type (given ++ standard);
    in
    if unknown == [ ] then
      mapAttrs value options
    else
      throw "The option `${show (path ++ [ (head unknown) ])}' does not exist.";

  lib = {
    inherit evalModules types mkIf mkMerge mkOverride optionals nameValuePair genAttrs hasPrefix hasSuffix;
    inherit (builtins) concatLists concatMap concatStringsSep foldl' zipAttrsWith;
    mkOption = option: option // { _type = "option"; };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    optional = condition: value: optionals condition [ value ];
    optionalAttrs = condition: set: if condition then set else { };
    toList = value: if isList value then value else [ value ];
    singleton = value: [ value ];
    hasInfix = part: text: length (filter isString (builtins.split (escapeRegex part) text)) > 1;
    removePrefix =
      prefix: text:
      if hasPrefix prefix text then builtins.substring (builtins.stringLength prefix) (-1) text else text;
    removeSuffix =
      suffix: text:
      if hasSuffix suffix text then
        builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
      else
        text;
    splitString = separator: text: filter isString (builtins.split (escapeRegex separator) text);
    intersectLists = one: filter (value: elem value one);
    filterAttrs = holds: set: removeAttrs set (filter (name: !holds name set.${name}) (attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  };

  # Each character by itself is what it says in brackets, but these.
  escapeRegex =
    text:
    concatStringsSep "" (
      map (one: if elem one [ "\\" "^" ] then "\\" + one else "[${one}]") (
        map (at: builtins.substring at 1 text) (builtins.genList (at: at) (builtins.stringLength text))
      )
    );
in
lib
