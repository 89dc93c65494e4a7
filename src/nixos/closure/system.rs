//! Which system of a tree boots.
//!
//! The profile leads to it. Images that were never booted may have no profile: then the boot loader's configuration
//! names it in `init=`, or it is the only system in the store. nixpkgs: `nixos/lib/make-disk-image.nix`,
//! `nixos/modules/installer/sd-card/sd-image.nix`, `nixos/modules/system/activation/top-level.nix`.

use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::tree::walk::shown;
use deaddrop_core::tree::{FileKind, Tree};

use super::view::View;
use super::{HASH, loader};

/// The system profile.
pub const PROFILE: &str = "/nix/var/nix/profiles/system";
/// Maximum number of names of the store that are looked at.
const MOST_STORE_PATHS: usize = 1_000_000;
/// Maximum number of systems in the store that are looked at.
const MOST_SYSTEMS: usize = 100;
/// Maximum number of names in the directory of profiles that are looked at.
const MOST_PROFILES: usize = 1000;
/// Maximum number of specialisations of a system.
const MOST_SPECIALISATIONS: usize = 100;

/// The choice of a system.
#[derive(Debug, PartialEq, Eq)]
pub enum Chosen {
    /// There is no NixOS.
    None,
    /// None can be chosen, or the one that boots is not there: why.
    Unreadable(String),
    /// A system.
    System {
        /// `/nix/store/HASH-nixos-system-NAME-LABEL`
        toplevel: String,
        /// Its number in the profile.
        generation: Option<u32>,
    },
}

/// Chooses the system at the path `system`, or the one that boots.
pub fn choose<T: Tree>(view: &View<'_, T>, system: Option<&str>) -> Chosen {
    let found = match system {
        Some(path) => at(view, path).map_err(|why| format!("--system {}: {why}", shown(path))).map(Some),
        None => booted(view),
    };
    match found {
        Ok(Some((toplevel, generation))) => {
            let generation = generation.or_else(|| generation_of(view, &toplevel));
            Chosen::System { toplevel, generation }
        }
        Ok(None) => Chosen::None,
        Err(why) => Chosen::Unreadable(why),
    }
}

/// Where a running NixOS has its system: `switch-to-configuration` lays this link (nixpkgs,
/// `nixos/modules/system/activation/activation-script.nix`).
pub const CURRENT: &str = "/run/current-system";

/// Chooses the system that runs; where nothing says it, the one of the profile.
pub fn running<T: Tree>(view: &View<'_, T>) -> Chosen {
    if !view.has_store() {
        // Guix has such a link too.
        return Chosen::None;
    }
    for path in [CURRENT, PROFILE] {
        match view.link(path) {
            Ok(Some(_)) => {
                return match at(view, path) {
                    Ok((toplevel, generation)) => Chosen::System { toplevel, generation },
                    Err(why) => Chosen::Unreadable(why),
                };
            }
            Ok(None) => {}
            Err(why) => return Chosen::Unreadable(why),
        }
    }
    Chosen::None
}

/// A system and its generation.
pub type System = (String, Option<u32>);

fn booted<T: Tree>(view: &View<'_, T>) -> Result<Option<System>, String> {
    if !view.has_store() {
        return no_system(view);
    }
    if view.link(PROFILE)?.is_some() {
        return at(view, PROFILE).map(Some);
    }
    if let Some(default) = loader::default_entry(view) {
        let (toplevel, _) = at(view, &default.toplevel).map_err(|why| format!("{}: {why}", default.file))?;
        return Ok(Some((toplevel, default.generation)));
    }
    only_one_in_the_store(view)
}

/// The system at a path, or where its links lead.
fn at<T: Tree>(view: &View<'_, T>, path: &str) -> Result<System, String> {
    if !path.starts_with('/') {
        return Err("it is no absolute path".to_owned());
    }
    let Some(place) = view.find(path)? else { return Err(format!("{} is not there", shown(path))) };
    if place.kind != FileKind::Directory || !is_system(view, &place.physical)? {
        return Err(format!("{} is no NixOS system", shown(&place.physical)));
    }
    let generation = view.link(path)?.as_deref().and_then(number_of_link).or_else(|| number_of_link(path));
    Ok((place.physical, generation))
}

/// True if a directory holds what only a system has.
fn is_system<T: Tree>(view: &View<'_, T>, path: &str) -> Result<bool, String> {
    for name in ["activate", "prepare-root", "boot.json"] {
        if view.find(&format!("{path}/{name}"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The N of `system-N-link`.
fn number_of_link(path: &str) -> Option<u32> {
    path.rsplit('/').next()?.strip_prefix("system-")?.strip_suffix("-link")?.parse().ok()
}

/// The highest number of the profile's links that lead to a system.
fn generation_of<T: Tree>(view: &View<'_, T>, toplevel: &str) -> Option<u32> {
    let (directory, _) = PROFILE.rsplit_once('/')?;
    // A directory that cannot be read: the number is not known.
    let names = view.names(directory, MOST_PROFILES).ok().flatten().unwrap_or_default();
    let leads_there =
        |name: &&String| view.link(&format!("{directory}/{name}")).is_ok_and(|to| to.is_some_and(|to| to == toplevel));
    let numbered = names.iter().filter(|name| number_of_link(name).is_some());
    numbered.filter(leads_there).filter_map(|name| number_of_link(name)).max()
}

/// The only system in the store that is no specialisation of another.
fn only_one_in_the_store<T: Tree>(view: &View<'_, T>) -> Result<Option<System>, String> {
    let names = view.names("/nix/store", MOST_STORE_PATHS)?.unwrap_or_default();
    let is_named = |name: &String| {
        let after_hash = name.get(HASH..).unwrap_or_default();
        after_hash.starts_with("-nixos-system-") && !after_hash.ends_with(".drv")
    };
    let mut named: Vec<String> = names.into_iter().filter(is_named).collect();
    named.sort_unstable();
    let mut systems = BTreeMap::new();
    let mut special = BTreeSet::new();
    let most = view.patience(MOST_SYSTEMS);
    if named.len() > most {
        return Err(format!("/nix/store: over {most} names of systems, and no profile; choose one with --system PATH"));
    }
    for name in named {
        let path = format!("/nix/store/{name}");
        let is_directory = view.find(&path)?.is_some_and(|place| place.kind == FileKind::Directory);
        if is_directory && is_system(view, &path)? {
            if special.len() < most {
                special.extend(specialisations(view, &path));
            }
            systems.insert(path, None);
        }
    }
    systems.retain(|path, _| !special.contains(path));
    if systems.len() > 1 {
        return Err(several(&systems.into_keys().collect::<Vec<_>>()));
    }
    systems.pop_first().map_or_else(|| no_system(view), |system| Ok(Some(system)))
}

/// No NixOS; or one without its store.
fn no_system<T: Tree>(view: &View<'_, T>) -> Result<Option<System>, String> {
    match view.find("/etc/NIXOS") {
        Ok(Some(_)) => {
            Err("/etc/NIXOS is there, and no system in /nix/store: is its store on another file system?".into())
        }
        _ => Ok(None),
    }
}

/// The paths of a system's specialisations.
pub fn specialisations<T: Tree>(view: &View<'_, T>, toplevel: &str) -> Vec<String> {
    let directory = format!("{toplevel}/specialisation");
    let names = view.names(&directory, view.patience(MOST_SPECIALISATIONS)).ok().flatten().unwrap_or_default();
    let place = |name: &String| view.find(&format!("{directory}/{name}")).ok().flatten();
    names.iter().filter_map(place).map(|place| place.physical).collect()
}

/// The systems of the profile, the newest first, and the specialisations of the one at `toplevel`; without itself.
pub fn others<T: Tree>(view: &View<'_, T>, toplevel: &str) -> Vec<System> {
    let (directory, _) = PROFILE.rsplit_once('/').unwrap_or_default();
    let names = view.names(directory, view.patience(MOST_PROFILES)).ok().flatten().unwrap_or_default();
    let mut numbered: Vec<(u32, String)> =
        names.into_iter().filter_map(|name| Some((number_of_link(&name)?, name))).collect();
    numbered.sort_unstable_by(|a, b| b.cmp(a));
    let of_profile = numbered.into_iter().filter_map(|(number, name)| {
        let place = view.find(&format!("{directory}/{name}")).ok().flatten()?;
        Some((place.physical, Some(number)))
    });
    let special = specialisations(view, toplevel).into_iter().map(|path| (path, None));
    let mut seen = BTreeSet::from([toplevel.to_owned()]);
    let mut others: Vec<System> = special.chain(of_profile).collect();
    others.retain(|(path, _)| seen.insert(path.clone()) && is_system(view, path).unwrap_or(false));
    others
}

fn several(paths: &[String]) -> String {
    const MOST_SHOWN: usize = 5;
    let shown: Vec<String> = paths.iter().take(MOST_SHOWN).map(|path| shown(path)).collect();
    let more = paths.len().saturating_sub(MOST_SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "no profile and no boot loader names the system, and there are several: {}{more}; choose one with \
         --system PATH",
        shown.join(", ")
    )
}
