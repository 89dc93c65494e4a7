//! The password that becomes root on a host: from a source, or asked for.

use super::flow;
use crate::manifest::{BecomePassword, Host, Manifest};
use crate::report::{Failure, Message};
use crate::secret::Secret;
use crate::source;

/// The password of one host; none where its manifest names none.
///
/// # Errors
/// Exit 1 when the source does not have it, or there is no terminal to ask on.
pub fn become_password(manifest: &Manifest, name: &str, host: &Host) -> Result<Option<Secret>, Failure> {
    match &host.become_password {
        None => Ok(None),
        Some(BecomePassword::Ask) => {
            source::ask(&format!("Password for sudo on {name}: ")).map(Some).map_err(|error| {
                let message = format!("{name}: `become_password: ask` needs a terminal ({error})");
                let hint = "run it in a terminal, or name where the password is: `become_password: SOURCE:ITEM`";
                Failure::refused(vec![Message::new(message).hint(hint)])
            })
        }
        Some(BecomePassword::From(reference)) => {
            let secret = format!("become_password of {name}");
            let reference = &reference.for_host(Some(name));
            let wanted = [source::Wanted { reference, secret: &secret, allow_empty: false }];
            Ok(flow::read_values(manifest, &[], &wanted)?.remove(reference))
        }
    }
}
