//! Rules about the path alone: places that NixOS empties, rewrites or makes world-readable.

use super::Finding;

/// The advice of most findings here.
const INSTEAD: &str = "use /etc/secrets or /var/lib/secrets";

/// Places where everything below (and the place itself) is refused: path, code, reason.
const REFUSED_BELOW: &[(&str, &str, &str)] = &[
    ("/nix/store", "NX001", "is in the Nix store: world-readable, read-only and checked by hash"),
    ("/nix/var", "NX001", "is Nix's own state"),
    ("/run", "NX002", "is on a file system that is empty at every boot"),
    ("/var/run", "NX002", "is in /run, which is empty at every boot"),
    ("/var/lock", "NX002", "is in /run, which is empty at every boot"),
    ("/dev", "NX002", "is on a file system that the kernel makes at every boot"),
    ("/proc", "NX002", "is on a file system that the kernel makes at every boot"),
    ("/sys", "NX002", "is on a file system that the kernel makes at every boot"),
    ("/tmp", "NX003", "is emptied at boot"),
    ("/etc/static", "NX004", "belongs to NixOS activation, which replaces it"),
    ("/boot", "NX009", "is on a FAT file system, which keeps no owner and no mode"),
];

/// Files that activation rewrites.
const REFUSED_FILES: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/.clean",
    "/etc/NIXOS",
    "/etc/mtab",
    "/etc/machine-id",
];

/// The finding about a path, if there is one.
#[must_use]
pub fn judge(path: &str) -> Option<Finding> {
    let refuse = |code, reason: &str, instead: &str| {
        Some(Finding { code, refuse: true, reason: format!("{path} {reason}"), instead: instead.to_owned() })
    };
    for (place, code, reason) in REFUSED_BELOW {
        if is_at_or_below(path, place) {
            return refuse(code, reason, INSTEAD);
        }
    }
    if REFUSED_FILES.contains(&path) {
        let instead = match path {
            "/etc/passwd" | "/etc/shadow" => "give the user a hashedPasswordFile, and declare that file",
            _ => INSTEAD,
        };
        return refuse("NX005", "is rewritten by NixOS activation", instead);
    }
    if is_at_or_below(path, "/var/tmp") {
        return Some(Finding {
            code: "NX003",
            refuse: false,
            reason: format!("{path} is removed when it has not been used for 30 days"),
            instead: INSTEAD.to_owned(),
        });
    }
    let of_cluster = path.strip_prefix("/var/lib/rancher/").and_then(|rest| rest.split_once('/'));
    if of_cluster.is_some_and(|(_, rest)| matches!(rest, "server/token" | "server/node-token" | "server/agent-token")) {
        return Some(super::k3s::own_token(path));
    }
    None
}

/// The regular expression of the paths that are refused whatever a manifest allows, for its JSON schema.
#[must_use]
pub fn never() -> String {
    let is_never = |code: &str| !deaddrop_core::warning::allowable().any(|allowed| allowed == code);
    let places: Vec<&str> =
        REFUSED_BELOW.iter().filter(|(_, code, _)| is_never(code)).map(|(place, ..)| *place).collect();
    format!("^({})(/|$)", places.join("|"))
}

/// True for `place` itself and everything under it; `/runner` is not below `/run`.
#[must_use]
pub fn is_at_or_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_judged_by_their_code() {
        for (path, want) in [
            ("/nix/store/abc/x", Some("NX001")),
            ("/nix/var/x", Some("NX001")),
            ("/run/keys/x", Some("NX002")),
            ("/var/run/x", Some("NX002")),
            ("/var/lock/x", Some("NX002")),
            ("/dev/x", Some("NX002")),
            ("/proc/x", Some("NX002")),
            ("/sys/x", Some("NX002")),
            ("/tmp/x", Some("NX003")),
            ("/var/tmp/x", Some("NX003")),
            ("/etc/static/x", Some("NX004")),
            ("/etc/shadow", Some("NX005")),
            ("/etc/machine-id", Some("NX005")),
            ("/boot/x", Some("NX009")),
            ("/var/lib/rancher/k3s/server/token", Some("NX113")),
            ("/var/lib/rancher/rke2/server/node-token", Some("NX113")),
            ("/var/lib/rancher/k3s/server/manifests/token", None),
            ("/runner/x", None),
            ("/etc/shadow.d/x", None),
            ("/etc/secrets/x", None),
            ("/var/lib/secrets/x", None),
        ] {
            assert_eq!(judge(path).map(|finding| finding.code), want, "{path}");
        }
        assert!(!judge("/var/tmp/x").unwrap().refuse);
    }
}
