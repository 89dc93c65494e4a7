//! The options of NixOS behind what a system reads, for `used_by`.

use super::closure::wants::{Kind, Want};

/// Units of nixpkgs by the beginning of their names, what reads the file, and the option; `*` in it is the rest of the
/// unit's name.
const UNITS: [(&str, &[Kind], &str); 19] = [
    ("k3s", &[Kind::ClusterToken], "services.k3s.tokenFile"),
    ("rke2", &[Kind::ClusterToken], "services.rke2.tokenFile"),
    ("k3s", &[Kind::EnvironmentFile], "services.k3s.environmentFile"),
    ("k3s", &[Kind::Word], "services.k3s.configPath"),
    ("wpa_supplicant", &[Kind::Configuration, Kind::Script], "networking.wireless.secretsFile"),
    ("wg-quick-", &[Kind::Script, Kind::Configuration], "networking.wg-quick.interfaces.*.privateKeyFile"),
    ("wireguard-", &[Kind::Script], "networking.wireguard.interfaces.*.privateKeyFile"),
    ("tailscaled-autoconnect", &[Kind::Script], "services.tailscale.authKeyFile"),
    ("restic-backups-", &[Kind::Variable, Kind::Credential], "services.restic.backups.*.passwordFile"),
    ("restic-backups-", &[Kind::EnvironmentFile], "services.restic.backups.*.environmentFile"),
    ("borgbackup-job-", &[Kind::Variable, Kind::Script], "services.borgbackup.jobs.*.encryption.passCommand"),
    ("acme-", &[Kind::EnvironmentFile], "security.acme.certs.*.environmentFile"),
    ("cloudflared-tunnel-", &[Kind::Credential, Kind::Configuration], "services.cloudflared.tunnels.*.credentialsFile"),
    ("github-runner-", &[Kind::Script, Kind::Configuration], "services.github-runners.*.tokenFile"),
    ("grafana", &[Kind::Configuration], "services.grafana.settings"),
    ("vaultwarden", &[Kind::EnvironmentFile], "services.vaultwarden.environmentFile"),
    ("caddy", &[Kind::EnvironmentFile], "services.caddy.environmentFile"),
    ("traefik", &[Kind::EnvironmentFile], "services.traefik.environmentFiles"),
    (
        "NetworkManager-ensure-profiles",
        &[Kind::EnvironmentFile],
        "networking.networkmanager.ensureProfiles.environmentFiles",
    ),
];

/// The option that names the file, as far as the unit tells it; else the one that makes the unit or the file.
#[must_use]
pub fn of(want: &Want) -> String {
    let Some(unit) = want.by.strip_suffix(".service") else {
        return match want.kind {
            Kind::NixConf => "nix.extraOptions".to_owned(),
            Kind::Configuration => want
                .by
                .strip_prefix("/etc/")
                .map_or_else(|| want.by.clone(), |name| format!("environment.etc.\"{name}\"")),
            _ => want.by.clone(),
        };
    };
    let known = UNITS.iter().find_map(|(start, kinds, option)| {
        let rest = unit.strip_prefix(start).filter(|_| kinds.contains(&want.kind))?;
        Some(option.replace('*', rest))
    });
    known.unwrap_or_else(|| {
        let setting = match want.kind {
            Kind::EnvironmentFile => "serviceConfig.EnvironmentFile",
            Kind::Credential => "serviceConfig.LoadCredential",
            Kind::Variable => "environment",
            Kind::Script => "script",
            _ => "serviceConfig",
        };
        format!("systemd.services.{unit}.{setting}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_known_by_its_unit() {
        for (by, kind, want) in [
            ("k3s.service", Kind::ClusterToken, "services.k3s.tokenFile"),
            ("k3s.service", Kind::Variable, "systemd.services.k3s.environment"),
            ("restic-backups-home.service", Kind::Variable, "services.restic.backups.home.passwordFile"),
            ("app.service", Kind::Credential, "systemd.services.app.serviceConfig.LoadCredential"),
            ("users.users.a.hashedPasswordFile", Kind::Password, "users.users.a.hashedPasswordFile"),
            ("/etc/systemd/network/a.netdev", Kind::Configuration, "environment.etc.\"systemd/network/a.netdev\""),
            ("nix.conf", Kind::NixConf, "nix.extraOptions"),
        ] {
            let by = by.to_owned();
            let found = of(&Want { path: "/etc/a".into(), by, kind, optional: false, user: None, groups: Vec::new() });
            assert_eq!(found, want);
        }
    }
}
