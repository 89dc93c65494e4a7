//! NX113: a running k3s cluster does not accept a new token from its file alone.

use super::Finding;

/// True for an option of the k3s or rke2 module that reads the cluster's token.
#[must_use]
pub fn reads_token(option: &str) -> bool {
    ["services.k3s.", "services.rke2."].iter().any(|service| option.starts_with(service))
        && ["tokenFile", "agentTokenFile"].iter().any(|name| option.ends_with(name))
}

/// The token of a running cluster was changed in the file at `path`.
#[must_use]
pub fn token_changed(path: &str) -> Finding {
    Finding {
        code: "NX113",
        refuse: false,
        reason: format!(
            "a cluster that runs does not take another token from {path} alone: k3s stops, since its data is encrypted \
             with the old one"
        ),
        instead: "first, on one server: `k3s token rotate`, which takes the old and the new token; then this file \
                  everywhere, then restart the servers one by one, then the agents. Keep the old token: older \
                  snapshots need it"
            .to_owned(),
    }
}

/// The file at `path` is the cluster's own.
#[must_use]
pub fn own_token(path: &str) -> Finding {
    Finding {
        code: "NX113",
        refuse: false,
        reason: format!("{path} is written by k3s itself: with another token in it its next start fails"),
        instead: "declare another file, and name it with services.k3s.tokenFile".to_owned(),
    }
}
