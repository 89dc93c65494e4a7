//! `credentials`: systemd's credentials, files in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), "Credentials"). An item is
//! a credential's name. For services that receive them with `LoadCredential=`, such as CI runners.

use std::path::{Path, PathBuf};

use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::secret::Secret;

use crate::error::shown;
use crate::input::context::Context;
use crate::input::read;
use crate::kinds::Kind;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// The variable that names the directory.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The credentials of the service that runs deaddrop.
pub(crate) struct Credentials;

impl Credentials {
    fn directory() -> Result<PathBuf, OpenError> {
        let Some(directory) = std::env::var_os(DIRECTORY).filter(|directory| !directory.is_empty()) else {
            return Err(OpenError::Output {
                program: "systemd".to_owned(),
                what: format!("${DIRECTORY} is not set"),
                hint: "it is there in a service with `LoadCredential=` or `SetCredentialEncrypted=`".to_owned(),
            });
        };
        Ok(PathBuf::from(directory))
    }
}

impl Kind for Credentials {
    type Spec = ();

    const HAS_FIELDS: bool = false;

    fn open<'m>((): &'m (), _: &'m str, _: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Credentials)
    }

    fn keeps_files((): &()) -> bool {
        true
    }
}

impl Source for Credentials {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let directory = Self::directory()?;
        Ok(wanted.iter().map(|reference| get(&directory, reference)).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let directory = Self::directory()?;
        let entries = std::fs::read_dir(&directory)
            .map_err(|error| OpenError::Read { path: directory.clone(), problem: read::ReadError::Io(error) })?;
        let files = entries.flatten().filter(|entry| entry.path().is_file());
        let mut names: Vec<String> = files.map(|entry| shown(&entry.file_name().to_string_lossy())).collect();
        names.sort_unstable();
        Ok(names.into_iter().map(Listed::without_fields).collect())
    }
}

fn get(directory: &Path, reference: &Reference) -> Result<Secret, LookupError> {
    let name = reference.item.as_str();
    if let Some(field) = &reference.field {
        let (field, whole) = (shown(field), crate::error::item(reference));
        return Err(LookupError::NoFields { field, kind: "a credential", whole });
    }
    // systemd requires a credential's name to be a file name (systemd.exec(5)).
    if name.contains('/') || name == "." || name == ".." {
        return Err(LookupError::Refused {
            item: shown(name),
            what: "no credential is called so".to_owned(),
            hint: Some("a credential's name is that of a file, without a directory".to_owned()),
        });
    }
    let path = directory.join(name);
    match read::read(&path, MAX_VALUE) {
        Ok(mut bytes) => Ok(Secret::new(std::mem::take(&mut *bytes))),
        Err(problem) => Err(LookupError::File { path, problem }),
    }
}
