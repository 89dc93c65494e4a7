//! `serial`: the tags whose hosts are rotated one at a time.

use deaddrop_core::keys::{Field, NodeId};
use deaddrop_core::shown::quoted;

use super::check::Checker;
use super::schema::OneOrMany;

impl Checker<'_, '_> {
    /// The tags, each once, in the file's order. Unknown ones are reported.
    pub(super) fn serial(&self, field: Field<OneOrMany>) -> Vec<String> {
        let texts = match field {
            Field::Missing | Field::Bad => Vec::new(),
            Field::Good(id, OneOrMany::One(text)) => vec![(id, text)],
            Field::Good(_, OneOrMany::Many(texts)) => texts.into_iter().filter_map(Field::good).collect(),
        };
        let mut tags: Vec<String> = Vec::new();
        for (id, text) in texts {
            if self.is_tag(id, &text) && !tags.contains(&text) {
                tags.push(text);
            }
        }
        tags
    }

    fn is_tag(&self, id: NodeId, text: &str) -> bool {
        if self.tags.contains_key(text) {
            return true;
        }
        if let Some(tag) = text.strip_prefix("tag:") {
            let hint = format!("write `{tag}`: nothing but tags stands here");
            self.push(self.mark(id), "`serial` names tags without `tag:`", Some(hint));
        } else if self.tags_are_complete {
            let hint = self.unknown_selector_hint("tag", text, &self.tags);
            self.push(self.mark(id), format!("unknown tag {}", quoted(text)), hint);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Manifest;

    const HOSTS: &str = "version: 1\nhosts: { a: { tags: [server, rack1] }, b: { tags: [edge] } }\n";

    fn parse(serial: &str) -> Result<Vec<String>, String> {
        let manifest = Manifest::parse(&format!("{HOSTS}serial: {serial}\n"), Path::new("m"));
        manifest
            .map(|manifest| manifest.serial)
            .map_err(|errors| anstream::adapter::strip_str(&errors.to_string()).to_string())
    }

    #[test]
    fn serial_names_tags_each_once() {
        assert_eq!(parse("server").unwrap(), ["server"]);
        assert_eq!(parse("[edge, server, edge]").unwrap(), ["edge", "server"]);
        assert!(parse("[]").unwrap().is_empty());
        assert!(Manifest::parse(HOSTS, Path::new("m")).unwrap().serial.is_empty());
    }

    #[test]
    fn what_is_no_tag_is_told_at_its_place() {
        for (serial, error, hint) in [
            ("[server, severs]", "m:3:18: unknown tag `severs`", "did you mean `server`?"),
            ("a", "m:3:9: unknown tag `a`", "tags here: edge, rack1, server"),
            ("[\"tag:server\"]", "m:3:10: `serial` names tags without `tag:`", "write `server`"),
            ("1", "m:3:9: ", ""),
        ] {
            let found = parse(serial).unwrap_err();
            assert!(found.contains(error) && found.contains(hint), "{serial}: {found}");
        }
    }
}
