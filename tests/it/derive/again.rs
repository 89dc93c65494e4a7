//! A second run changes nothing, and a changed template changes its own file only.

use serde_json::json;

use super::Place;
use crate::kit::canary::Canary;
use crate::kit::{images, sha256_of, skipped_without_root};

const SECRETS: &str = "secrets:
  plain: { path: /etc/secrets/plain, from: env:VALUE, expect: { min_length: 8 } }
  decoded: { path: /etc/secrets/decoded, from: env:HEX, encoding: hex }
  inline: { path: /etc/secrets/inline, template: \"A={{ secret('env:VALUE') | systemd_quote }}\\n\", format: dotenv }
  file: { path: /etc/secrets/file, template_file: file.j2, format: yaml }
";

#[test]
fn in_an_image_a_second_run_changes_nothing_and_a_changed_template_only_its_file() {
    let value = Canary::new("the value");
    let place = Place::new(SECRETS);
    place.scratch.write("file.j2", "a: {{ secret('env:VALUE') | json }}\n");
    let image = images::RAW_EFI.committed(&place.scratch);
    let name = format!("{}.img", images::RAW_EFI.name);
    let run = |args: &[&str]| {
        let run = place.run(args).env("VALUE", value.text()).env("HEX", "616263").plant(&value);
        run.run()
    };
    let first = run(&["inject", &name, "--json"]).expect_code(0);
    assert_eq!(first.json()["summary"]["create"], json!(4));
    let before = sha256_of(&image.path);
    let second = run(&["inject", &name, "--json"]).expect_code(0);
    assert_eq!(second.json()["summary"]["unchanged"], json!(4));
    assert!(sha256_of(&image.path) == before, "not one byte changes");
    run(&["verify", &name]).expect_code(0);

    place.scratch.write("file.j2", "b: {{ secret('env:VALUE') | json }}\n");
    let third = run(&["inject", &name, "--json"]).expect_code(0);
    let changed: Vec<_> =
        third.json()["changes"].as_array().unwrap().iter().map(|change| change["action"].clone()).collect();
    assert_eq!(changed, [json!("unchanged"), json!("unchanged"), json!("unchanged"), json!("replace")]);
    third.expect_error("~ /etc/secrets/file");
}

#[test]
fn the_plan_says_which_template_a_file_is_made_from() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place = Place::new(SECRETS);
    place.scratch.write("file.j2", "a: {{ secret('env:VALUE') | json }}\n");
    let plan = place.run(&["plan", "root"]).env("VALUE", "hunter22").env("HEX", "61").run().expect_code(0);
    plan.expect_output("inline, from template\n")
        .expect_output("file, from template file.j2")
        .expect_output("decoded, from env:HEX");
}
