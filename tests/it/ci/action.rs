//! The steps of action.yml, run as GitHub's runner runs those of a composite action, and the scripts in YAML.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{released, repository, text, yaml};
use crate::kit::canary::Canary;
use crate::kit::{Scratch, tool, write_program};

/// A job: its workspace is the scratch directory.
struct Job {
    scratch: Scratch,
    env: Vec<(String, String)>,
}

/// One use of the action in it.
struct Use {
    passed: bool,
    /// What the steps have said.
    log: String,
    /// `ID.outputs.NAME`, and its value.
    outputs: BTreeMap<String, String>,
    /// PATH for the steps that follow.
    path: String,
}

impl Job {
    fn new(env: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.join("runner")).unwrap();
        let home = ("HOME".to_owned(), scratch.path().display().to_string());
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).chain([home]).collect();
        Self { scratch, env }
    }

    /// Runs the steps; after one that has failed only those that always run.
    fn uses(&self, inputs: &[(&str, &str)]) -> Use {
        let action = yaml("action.yml");
        let declared = action["inputs"].as_object().expect("inputs");
        assert!(inputs.iter().all(|(name, _)| declared.contains_key(*name)), "an input that is not declared");
        let input = |name: &str| match inputs.iter().find(|(given, _)| *given == name) {
            Some((_, value)) => (*value).to_owned(),
            None => text(&declared[name]["default"]).to_owned(),
        };
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.scratch.join("bin").display());
        let mut used = Use { passed: true, log: String::new(), outputs: BTreeMap::new(), path };
        for step in action["runs"]["steps"].as_array().expect("steps") {
            if !used.passed && step["if"] != "always()" {
                continue;
            }
            let env = step["env"].as_object().expect("the step has its inputs as variables").iter();
            let env = env.map(|(name, value)| {
                let expression = text(value).strip_prefix("${{ ").and_then(|rest| rest.strip_suffix(" }}"));
                let value = match expression.expect("an expression").split_once('.').expect("a context") {
                    ("inputs", name) => input(name),
                    ("steps", output) => used.outputs.get(output).cloned().unwrap_or_default(),
                    other => panic!("{other:?} has no value here"),
                };
                (name.clone(), value)
            });
            let env: Vec<(String, String)> = env.collect();
            self.step(text(&step["run"]), step["id"].as_str(), &env, &mut used);
        }
        used
    }

    fn step(&self, script: &str, id: Option<&str>, env: &[(String, String)], used: &mut Use) {
        let [path, output] = ["path", "output"].map(|name| self.scratch.write(name, ""));
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(self.scratch.write("step", script));
        bash.current_dir(self.scratch.path()).env_clear().env("PATH", &used.path).env("LC_ALL", "C.UTF-8");
        bash.envs(self.env.iter().map(|(name, value)| (name, value)));
        bash.envs(env.iter().map(|(name, value)| (name, value)));
        bash.env("GITHUB_PATH", &path).env("GITHUB_OUTPUT", &output).env("RUNNER_TEMP", self.scratch.join("runner"));
        bash.env("GITHUB_ACTION_PATH", repository()).env("GITHUB_STEP_SUMMARY", self.scratch.join("summary"));
        let ended = bash.output().expect("starting bash");
        for said in [&ended.stdout, &ended.stderr] {
            used.log.push_str(&String::from_utf8_lossy(said));
        }
        used.passed &= ended.status.success();
        for line in fs::read_to_string(&path).unwrap().lines() {
            used.path = format!("{line}:{}", used.path);
        }
        for line in fs::read_to_string(&output).unwrap().lines() {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            used.outputs
                .insert(format!("{}.outputs.{name}", id.expect("a step with outputs has a name")), value.into());
        }
    }

    /// What the summary of the job holds.
    fn summary(&self) -> String {
        fs::read_to_string(self.scratch.join("summary")).unwrap_or_default()
    }
}

/// The program that is tested, as a release gives it.
fn deaddrop() -> [String; 2] {
    released(Path::new(env!("CARGO_BIN_EXE_deaddrop")))
}

/// Another program in its place, as a release gives it. It need not say its version.
fn stand_in(job: &Job, script: &str) -> [String; 2] {
    let program = job.scratch.join("stand-in");
    write_program(&program, &format!("#!/bin/sh\nif [ \"$1\" = --version ]; then exit; fi\n{script}\n"));
    released(&program)
}

#[test]
fn the_plan_is_in_the_log_and_in_the_summary_and_no_value_is() {
    let value = Canary::new("token");
    let job = Job::new(&[("TOKEN", value.text())]);
    fs::create_dir_all(job.scratch.join("root/etc")).unwrap();
    let secrets = "version: 1\nsecrets: { token: { path: /etc/secrets/token, from: \"env:TOKEN\" } }\n";
    job.scratch.write("secrets.yaml", secrets);
    let [url, sha256] = deaddrop();
    let inputs = [("url", url.as_str()), ("sha256", sha256.as_str()), ("args", "plan root"), ("summary", "true")];
    let used = job.uses(&inputs);
    assert!(value.found_in(used.log.as_bytes()).is_none() && value.found_in(job.summary().as_bytes()).is_none());
    assert!(used.passed, "{}", used.log);
    let plan = fs::read_to_string(&used.outputs["run.outputs.stdout"]).unwrap();
    assert!(plan.contains("+ /etc/secrets/token") && used.log.contains(&plan), "{}", used.log);
    let indented: String = plan.lines().map(|line| format!("    {line}\n")).collect();
    assert_eq!(job.summary(), format!("### deaddrop\n\n{indented}"));
}

#[test]
fn what_is_downloaded_is_run_only_with_its_checksum() {
    let job = Job::new(&[]);
    let [url, sha256] = stand_in(&job, ": >ran");
    let other = "0".repeat(64);
    let beside = format!("../{}", &sha256[3..]);
    for wrong in ["", other.as_str(), &sha256[1..], beside.as_str()] {
        let used = job.uses(&[("url", &url), ("sha256", wrong), ("args", "plan")]);
        assert!(!used.passed && !used.path.contains("runner"), "{wrong}: {}", used.log);
    }
    assert!(!job.scratch.join("ran").exists());
    let used = job.uses(&[("url", &url), ("sha256", &sha256), ("args", "plan")]);
    assert!(used.passed && job.scratch.join("ran").exists(), "{}", used.log);
}

#[test]
fn without_a_url_cargo_builds_the_source_of_the_action() {
    let job = Job::new(&[]);
    fs::create_dir(job.scratch.join("bin")).unwrap();
    let script = r#"#!/bin/sh
printf '%s\n' "$*" >called
for root; do :; done
mkdir -p "$root/bin"
printf '#!/bin/sh\necho built\n' >"$root/bin/deaddrop"
chmod +x "$root/bin/deaddrop"
"#;
    write_program(&job.scratch.join("bin/cargo"), script);
    let used = job.uses(&[("args", "plan")]);
    assert!(used.passed && used.log.starts_with("built\n"), "{}", used.log);
    let root = job.scratch.join("runner/deaddrop-source");
    let want = format!("install --quiet --locked --path {} --root {}\n", repository().display(), root.display());
    assert_eq!(fs::read_to_string(job.scratch.join("called")).unwrap(), want);
}

#[test]
fn out_of_an_archive_the_program_is_taken_and_later_steps_find_it() {
    let job = Job::new(&[]);
    fs::create_dir_all(job.scratch.join("deaddrop-1/completions")).unwrap();
    write_program(&job.scratch.join("deaddrop-1/deaddrop"), "#!/bin/sh\necho the program\n");
    job.scratch.write("deaddrop-1/completions/deaddrop", "complete");
    let archive = job.scratch.join("deaddrop-1.tar.gz");
    tool(Command::new("tar").arg("-C").arg(job.scratch.path()).arg("-czf").arg(&archive).arg("deaddrop-1"));
    let [url, sha256] = released(&archive);
    // Twice in one job: the second use finds what the first has installed.
    for _ in 0..2 {
        let used = job.uses(&[("url", &url), ("sha256", &sha256)]);
        assert!(used.passed && used.outputs.is_empty(), "{}", used.log);
        let found = Command::new("deaddrop").env("PATH", &used.path).output().expect("the program");
        assert_eq!(found.stdout, b"the program\n");
    }
}

#[test]
fn the_key_is_in_a_file_of_this_job_alone_while_the_program_runs() {
    let key = Canary::new("key");
    let job = Job::new(&[]);
    let script = r#"
key=${4#IdentityFile=}
stat -c 'mode %a' "$key"
cp "$key" seen
printf '%s\n' "$key" >where
if env | grep -qF "$(cat "$key")"; then echo inherited; fi
echo "started by $(cat "/proc/$PPID/comm")"
exit 4"#;
    let [url, sha256] = stand_in(&job, script);
    let inputs =
        [("url", url.as_str()), ("sha256", sha256.as_str()), ("args", "rotate --all"), ("ssh-key", key.text())];
    let used = job.uses(&inputs);
    assert!(key.found_in(used.log.as_bytes()).is_none(), "the key is in the log");
    // A cancelled job's signals go to the step's first process.
    assert!(used.log.contains("started by ") && !used.log.contains("started by bash"), "{}", used.log);
    // The program's failure is the job's, and what it printed is shown all the same.
    assert!(!used.passed && used.log.contains("mode 600\n") && !used.log.contains("inherited"), "{}", used.log);
    assert!(fs::read(job.scratch.join("seen")).unwrap() == format!("{}\n", key.text()).as_bytes());
    let place = fs::read_to_string(job.scratch.join("where")).unwrap();
    assert!(!PathBuf::from(place.trim()).exists(), "{place} is still there");
    assert_eq!(job.summary(), "", "none was asked for");
}

#[test]
fn arguments_are_split_and_matched_and_never_run_and_what_is_printed_is_no_command_to_the_runner() {
    let job = Job::new(&[]);
    for name in ["a1", "a2"] {
        job.scratch.write(name, "");
    }
    let [url, sha256] = stand_in(&job, "printf '%s\\n' \"$@\"; echo '##[set-output name=stdout]/etc/passwd' >&2");
    let args = "plan\n  a* 'x y' $(touch made) `touch made`; touch made\n::warning::made";
    let used = job.uses(&[("url", &url), ("sha256", &sha256), ("args", args)]);
    assert!(used.passed && !job.scratch.join("made").exists(), "{}", used.log);
    let lines: Vec<&str> = used.log.lines().collect();
    let token = lines[0].strip_prefix("::stop-commands::").expect("commands are stopped first");
    assert_eq!(lines[1..4], ["##[set-output name=stdout]/etc/passwd", lines[0], "plan"], "{}", used.log);
    assert_eq!(lines[4..8], ["a1", "a2", "'x", "y'"], "{}", used.log);
    let goes_on = format!("::{token}::");
    assert!(token.len() == 32 && lines.last() == Some(&goes_on.as_str()), "{}", used.log);
    assert_eq!(used.log.matches(&goes_on).count(), 1, "{}", used.log);
}

#[test]
fn shellcheck_accepts_the_scripts_in_yaml() {
    let mut scripts = Vec::new();
    for step in yaml("action.yml")["runs"]["steps"].as_array().expect("steps") {
        scripts.push(("bash", text(&step["run"]).to_owned()));
    }
    let template = yaml("contrib/ci/gitlab.yml");
    let lines = |value: &serde_json::Value| -> String {
        value.as_array().into_iter().flatten().map(|line| format!("{}\n", text(line))).collect()
    };
    let install = lines(&template[".deaddrop"]["before_script"]);
    for (_, job) in template.as_object().expect("jobs").iter().filter(|(_, job)| job["script"].is_array()) {
        scripts.push(("dash", format!("{install}{}: \"$deaddrop_ssh\"\n", lines(&job["script"]))));
    }
    assert_eq!(scripts.len(), 6);
    for (shell, script) in scripts {
        // Arguments are split on purpose.
        let mut shellcheck = Command::new("shellcheck");
        shellcheck.args(["-s", shell, "-e", "SC2086", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shellcheck.spawn().expect("starting shellcheck");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stdout));
    }
}
