//! Templates that would never end or fill the memory: refused at their place, or stopped, within 10 seconds and 600 MB.

use super::Place;
use crate::kit::canary::Canary;

/// A manifest whose one secret is made by this template, in a file.
fn with_template(template: &str) -> Place {
    let place = Place::new("secrets:\n  a: { path: /etc/a, template_file: endless.j2 }\nhosts: { node1: }\n");
    place.scratch.write("endless.j2", template);
    place
}

#[test]
fn a_template_that_loops_for_ever_is_refused_with_its_place() {
    for (template, place, want) in [
        ("a\n{% for i in range(1000000000) %}x{% endfor %}", "endless.j2:2:13:", "a loop goes over a list"),
        ("{{ 'x' * 1000000000 }}", "endless.j2:1:4:", "an operator other than `~`"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "endless.j2:1:", "unknown statement macro"),
        ("{% for a in [[1]] recursive %}{{ loop(a) }}{% endfor %}", "endless.j2:1:", "cannot be used in a template"),
        ("{% include 'endless.j2' %}", "endless.j2:1:", "unknown statement include"),
    ] {
        let run = with_template(template).run(&["check"]).limited().run();
        run.expect_refusal(template, 2, &[place, want]);
    }
}

#[test]
fn a_template_that_takes_too_much_is_stopped_with_its_line_and_shows_no_value() {
    let value = Canary::new("the value");
    let items = (0..200).map(|number| number.to_string()).collect::<Vec<_>>().join(", ");
    let nested = format!("{}x{}", format!("{{% for i in [{items}] %}}").repeat(8), "{% endfor %}".repeat(8));
    let doubling = format!("{{% set x = secret('env:VALUE') %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60));
    let blocks = format!(
        "{{% set x %}}{{{{ secret('env:VALUE') }}}}{{% endset %}}{}",
        "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60)
    );
    let quoted =
        format!("{{% set x = secret('env:VALUE') %}}{}{{{{ x }}}}", "{% set x = (x ~ x) | b64encode %}".repeat(40));
    for (name, template) in [("loops", nested), ("doubling", doubling), ("blocks", blocks), ("quotes", quoted)] {
        let place = with_template(&format!("\n{template}"));
        place.run(&["check"]).limited().run().expect_code(0);
        let run = place.run(&["inject", "root"]).env("VALUE", value.text()).plant(&value).limited().run();
        let too_much = "the template takes too many steps, or makes over 160 MB";
        let want = if name == "quotes" { "a text would be over 16 MiB" } else { too_much };
        run.expect_refusal(name, 1, &[&format!("a: endless.j2:2: {want}"), "hint: "]);
    }
}

#[test]
fn a_file_that_would_be_too_long_is_refused() {
    let place = with_template("{{ secret('file:values/a') }}{{ secret('file:values/a') }}");
    place.value("a", vec![b'x'; 9 << 20]);
    let run = place.run(&["inject", "root"]).limited().run();
    run.expect_refusal("too long", 1, &["a: endless.j2: a text would be over 16 MiB"]);
    // The longest values go through the costliest filter.
    place.scratch.write("endless.j2", "{{ secret('file:values/a') | json | length_is_no_filter }}");
    place.run(&["check"]).run().expect_refusal("unknown", 2, &["unknown filter `length_is_no_filter`"]);
    place.value("a", vec![b'\x01'; 256 << 10]);
    place.scratch.write("endless.j2", "{{ secret('file:values/a') | json }}");
    place.run(&["check", "--values"]).limited().run().expect_code(0);
}

#[test]
fn templates_of_a_manifest_are_bounded() {
    let place = with_template(&"x".repeat(257 << 10));
    place.run(&["check"]).limited().run().expect_refusal(
        "long",
        2,
        &["secrets.yaml:3:37: the template is over 256 KiB, the limit of a template"],
    );
    // One file for many secrets is read once.
    let many: String =
        (0..9000).map(|n| format!("  s{n}: {{ path: /etc/s/{n}, template_file: endless.j2 }}\n")).collect();
    place.declare(&format!("secrets:\n{many}"));
    place.scratch.write("endless.j2", "x".repeat(255 << 10));
    place.run(&["check"]).limited().run().expect_code(0);
    for n in 0..70 {
        place.scratch.write(format!("t{n}"), "x".repeat(255 << 10));
    }
    let many: String = (0..70).map(|n| format!("  s{n}: {{ path: /etc/s/{n}, template_file: t{n} }}\n")).collect();
    place.declare(&format!("secrets:\n{many}"));
    place.run(&["check"]).limited().run().expect_refusal("many", 2, &["all templates together are over 16 MiB"]);
}
