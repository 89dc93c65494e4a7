//! DD403: a target that tells that it is another host of the manifest, by the comment of a kept key or by
//! /etc/hostname. With the wrong image a node would get another node's identity.

use std::collections::BTreeMap;

use deaddrop_core::warning::Warning;

use super::desired::{Content, DesiredFile, Generated, KeyState};
use super::remedy;
use crate::derive::generate::{Public, SshPublicKey};
use crate::manifest::{Allow, Host};
use crate::place::{Refusal, Survey};

const CODE: &str = "DD403";

/// The host that a target is to be.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'m> {
    /// Its name.
    pub host: &'m str,
    /// The hosts of the manifest.
    pub hosts: &'m BTreeMap<String, Host>,
    /// `--as-host`: go on all the same.
    pub insist: bool,
    /// Its file is named after its host (`{host}`): it may be made of a base of several hosts, with a name of its own.
    pub by_mark: bool,
}

impl Identity<'_> {
    /// Compares with what the target tells. The warning is one that was allowed, or insisted on.
    ///
    /// # Errors
    /// DD403, if the target is another host.
    pub fn check(&self, files: &[DesiredFile], survey: &Survey, allow: &Allow) -> Result<Option<Warning>, Refusal> {
        let by_name = self.told_by_name(survey).map(|other| (other, "its /etc/hostname".to_owned()));
        let by_key = || self.told_by_key(files, survey);
        let told = if self.by_mark { by_key() } else { by_name.clone().or_else(by_key) };
        let Some((other, by)) = told else {
            return Ok(by_name.map(|(other, by)| Warning {
                code: CODE,
                secret: None,
                message: format!("the image has the name {other}, by {by}: {} starts with it", self.host),
                hint: "if one base is for all: leave networking.hostName out of its configuration".into(),
            }));
        };
        let reason = format!("this is the target of {other}, by {by}, and not of {}", self.host);
        let why = match (self.insist, allow.get(CODE)) {
            (true, _) => "by --as-host",
            (false, Some(why)) => why,
            (false, None) => {
                let hint = remedy::other_host(self.host, &other);
                return Err(Refusal { code: Some(CODE), reason, hint });
            }
        };
        Ok(Some(Warning {
            code: CODE,
            secret: None,
            message: format!("{reason}; that is allowed: {why}"),
            hint: "two nodes with one host key cannot be told apart: remove the kept keys for new ones".into(),
        }))
    }

    fn other(&self, name: &str) -> Option<String> {
        (name != self.host && self.hosts.contains_key(name)).then(|| name.to_owned())
    }

    /// Another host, which /etc/hostname names.
    fn told_by_name(&self, survey: &Survey) -> Option<String> {
        self.other(survey.hostname.as_deref()?)
    }

    /// Another host, and the key that tells it.
    fn told_by_key(&self, files: &[DesiredFile], survey: &Survey) -> Option<(String, String)> {
        let mut key: Option<&str> = None;
        for (file, place) in files.iter().zip(&survey.places) {
            let comment = match &file.content {
                Content::Generated(Generated { key: KeyState::Kept(Public::Ssh(public)), .. }) => {
                    key = Some(&file.secret);
                    Some(public.comment().to_owned())
                }
                Content::PublicPart(_) if key == Some(&file.secret) => {
                    let there = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
                    let line = there.and_then(|line| std::str::from_utf8(line.expose()).ok());
                    line.and_then(|line| SshPublicKey::parse(line.lines().next()?)).map(|key| key.comment().to_owned())
                }
                _ => None,
            };
            // As in the comment of a key that deaddrop made: SECRET@HOST.
            let name = comment.as_deref().and_then(|comment| comment.strip_prefix(&file.secret)?.strip_prefix('@'));
            if let Some(name) = name.and_then(|name| self.other(name)) {
                return Some((name, format!("the comment of {}", file.path)));
            }
        }
        None
    }
}
