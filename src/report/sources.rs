//! The items of a source, by name.

use deaddrop_vault::Listed;

/// One line per item, for people and for `grep`: `folder/name`, its id, its fields. Ends with a newline unless it is
/// empty.
#[must_use]
pub fn table(items: &[Listed]) -> String {
    let labels: Vec<String> = items.iter().map(label).collect();
    let width = |texts: &[String]| texts.iter().map(|text| unicode_width::UnicodeWidthStr::width(text.as_str())).max();
    let ids: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
    let (label_width, id_width) = (width(&labels).unwrap_or(0), width(&ids).unwrap_or(0));
    let mut table = String::new();
    for (item, label) in items.iter().zip(&labels) {
        let mut line = pad(label, label_width);
        if id_width > 0 {
            line.push_str("   ");
            line.push_str(&pad(&item.id, id_width));
        }
        if !item.fields.is_empty() {
            line.push_str("   ");
            line.push_str(&item.fields.join(", "));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// "vault: 3 items".
#[must_use]
pub fn closing_line(name: &str, items: &[Listed]) -> String {
    let count = items.len();
    format!("{name}: {count} item{}", if count == 1 { "" } else { "s" })
}

fn label(item: &Listed) -> String {
    match item.folders.as_slice() {
        [] => item.name.clone(),
        folders => folders.iter().map(|folder| format!("{folder}/{}", item.name)).collect::<Vec<_>>().join(", "),
    }
}

fn pad(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(unicode_width::UnicodeWidthStr::width(text));
    format!("{text}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_line_with_its_folder_its_id_and_its_fields() {
        let item = |folders: &[&str], name: &str, id: &str, fields: &[&str]| Listed {
            folders: folders.iter().map(|folder| (*folder).to_owned()).collect(),
            name: name.to_owned(),
            id: id.to_owned(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        let items = [item(&["Homelab"], "Wifi", "1", &["password", "notes"]), item(&[], "Key", "22", &[])];
        assert_eq!(table(&items), "Homelab/Wifi   1    password, notes\nKey            22\n");
        assert_eq!(table(&[item(&[], "A", "", &[])]), "A\n");
        assert_eq!(table(&[]), "");
        assert_eq!(closing_line("vault", &items), "vault: 2 items");
    }
}
