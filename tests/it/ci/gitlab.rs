//! The example for GitLab as it stands, run by gitlab-ci-local over the nodes of the fleet's tests.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{file, released};
use crate::fleet::nodes::Nodes;
use crate::fleet::{Values, assert_empty, manifest};
use crate::kit::images::RAW_EFI;
use crate::kit::run::Deaddrop;
use crate::kit::{tool, wait_until};

/// A repository with the example, nodes, and the variables of a project.
struct Project {
    nodes: Nodes,
    values: Values,
    directory: PathBuf,
    /// A file that a held node makes, and one that lets it go on.
    held: PathBuf,
    go_on: PathBuf,
}

impl Project {
    /// With so many nodes. `variables` are more than those that the example asks for.
    fn new(count: usize, variables: &[(&str, &str)]) -> Self {
        let nodes = Nodes::start(count);
        let directory = nodes.scratch.join("project");
        let [held, go_on] = ["held", "go-on"].map(|name| nodes.scratch.join(name));
        let project = Self { nodes, values: Values::old(), directory, held, go_on };
        project.write_files();
        project.write_variables(variables);
        for words in ["init --quiet --initial-branch main", "add --all", "commit --quiet --message all"] {
            tool(project.git().args(words.split(' ')));
        }
        tool(project.git().args(["remote", "add", "origin", "git@gitlab.com:me/homelab.git"]));
        project
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.directory).args(["-c", "user.name=me", "-c", "user.email=me@localhost"]);
        git
    }

    fn write_files(&self) {
        for directory in ["deploy", "images"] {
            fs::create_dir_all(self.directory.join(directory)).unwrap();
        }
        let mut example = fs::read_to_string(file("contrib/ci/gitlab-ci.yml")).unwrap();
        for (there, here) in [
            (
                "remote: https://raw.githubusercontent.com/deaddrop/deaddrop/v0.1.0/contrib/ci/gitlab.yml",
                "local: gitlab.yml",
            ),
            ("--host node1", "--host node000"),
            ("echo 'send node1.img.zst to where it is written'", "cp node1.img.zst ../sent.img.zst"),
        ] {
            assert!(example.contains(there), "the example has no {there}");
            example = example.replace(there, here);
        }
        fs::write(self.directory.join(".gitlab-ci.yml"), example).unwrap();
        fs::copy(file("contrib/ci/gitlab.yml"), self.directory.join("gitlab.yml")).unwrap();
        fs::copy(RAW_EFI.compressed(), self.directory.join("images/base.img.zst")).unwrap();
        // Each run of it leaves one line.
        let (held, go_on) = (self.held.display(), self.go_on.display());
        let script = format!(
            "echo ran >>/var/ran; if [ -e /etc/hold ]; then : >{held}; while [ ! -e {go_on} ]; do sleep 0.1; done; fi"
        );
        manifest(&self.nodes, "", &format!(", run_after: [[sh, -c, {}]], settle: 0", json!(script)), "");
        fs::rename(self.nodes.scratch.join("secrets.yaml"), self.directory.join("secrets.yaml")).unwrap();
        fs::copy(self.nodes.scratch.join("ssh_config"), self.directory.join("deploy/ssh_config")).unwrap();
    }

    /// What GitLab holds for the project. A variable of the type File is the path of a file that others may read.
    fn write_variables(&self, more: &[(&str, &str)]) {
        let key = self.nodes.scratch.join("key-of-gitlab");
        fs::copy(self.nodes.scratch.join("user"), &key).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let [url, sha256] = released(Path::new(env!("CARGO_BIN_EXE_deaddrop")));
        let plain = |value: &str| json!({ "type": "variable", "values": { "*": value } });
        let mut variables = json!({ "DEADDROP_URL": plain(&url), "DEADDROP_SHA256": plain(&sha256) });
        variables["DEADDROP_SSH_KEY"] = plain(&key.display().to_string());
        for (name, value) in more {
            variables[*name] = plain(value);
        }
        for (name, value) in self.values.environment() {
            variables[name] = plain(value);
        }
        self.nodes.scratch.write_private("variables.yml", variables.to_string());
    }

    /// Starts a pipeline, or some of its jobs.
    fn start(&self, words: &[&str]) -> Child {
        // Only GitLab has the key.
        let _ = fs::remove_file(self.nodes.scratch.join("user"));
        let log = File::create(self.nodes.scratch.join("log")).unwrap();
        let tmp = self.nodes.scratch.join("tmp");
        fs::create_dir_all(&tmp).unwrap();
        let mut command = Command::new("gitlab-ci-local");
        command.args(["--force-shell-executor", "--variables-file", "../variables.yml"]).args(words);
        command.current_dir(&self.directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.nodes.scratch.path()).env("TMPDIR", tmp).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().expect("starting gitlab-ci-local")
    }

    /// Waits for its end; gives whether all jobs passed, and what they said, which holds no value.
    #[track_caller]
    fn end(&self, mut pipeline: Child) -> (bool, String) {
        let passed = pipeline.wait().unwrap().success();
        let log = fs::read_to_string(self.nodes.scratch.join("log")).unwrap();
        assert!(!self.values.environment().any(|(_, value)| log.contains(value)), "a value is in the log");
        (passed, log)
    }

    /// How often each node has changed its secrets.
    fn runs(&self, count: usize) -> Vec<usize> {
        let lines =
            |node| self.nodes.read(node, "/var/ran").map_or(0, |text| text.split(|byte| *byte == b'\n').count() - 1);
        (0..count).map(lines).collect()
    }
}

/// The parent of a process.
fn parent(process: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process that runs");
    // proc_pid_stat(5): after the name, which is in parentheses, its state and its parent.
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    rest.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

/// The processes with this variable in their environment as they started, and their arguments.
fn processes(variable: &str) -> Vec<(i32, String)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |number: &i32| {
        let environ = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    let arguments = |number: i32| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        (number, String::from_utf8_lossy(&line).replace('\0', " "))
    };
    numbers.filter(has).map(arguments).collect()
}

#[test]
#[ignore = "needs gitlab-ci-local: TEST_STAGES=ci scripts/test"]
fn a_merge_request_gets_the_plan_and_nothing_is_written() {
    let project = Project::new(2, &[]);
    let words = ["--variable", "CI_PIPELINE_SOURCE=merge_request_event", "plan"];
    let (passed, log) = project.end(project.start(&words));
    assert!(passed, "{log}");
    let plan = fs::read_to_string(project.directory.join("deaddrop-plan.txt")).expect("the artifact");
    assert!(plan.contains("node001") && plan.contains("+ /etc/secrets/s00"), "{plan}");
    assert!(plan.lines().all(|line| log.contains(line)), "{log}");
    (0..2).for_each(|node| assert_empty(&project.nodes, node));
}

#[test]
#[ignore = "needs gitlab-ci-local: TEST_STAGES=ci scripts/test"]
fn four_jobs_do_each_of_twenty_hosts_once_and_the_image_is_made() {
    let project = Project::new(20, &[]);
    let (passed, log) = project.end(project.start(&[]));
    assert!(passed, "{log}");
    assert_eq!(project.runs(20), [1; 20], "{log}");
    for node in 0..20 {
        project.values.assert_on(&project.nodes, node);
        assert_eq!(project.nodes.connections(node), 1, "{node}");
    }
    // No job was without hosts, and none is left of the image but what was sent.
    assert_eq!(log.matches(" hosts done (").count(), 4, "{log}");
    assert!(!project.directory.join("node1.img.zst").exists());
    let verify = Deaddrop::new(&project.nodes.scratch).args(["verify", "sent.img.zst", "--host", "node000"]);
    let verify = verify.args(["-m", "project/secrets.yaml"]);
    project.values.environment().fold(verify, |run, (name, value)| run.env(name, value)).run().expect_code(0);
}

#[test]
#[ignore = "needs gitlab-ci-local: TEST_STAGES=ci scripts/test"]
fn a_job_that_was_killed_in_the_middle_is_run_again_and_each_host_is_done_once() {
    // One host at a time, so that node008 is neither the first nor the last of its job.
    let arguments = "--all --parallel 1 --ssh-config deploy/ssh_config";
    let project = Project::new(20, &[("DEADDROP_ARGS", arguments)]);
    project.nodes.shell(8, "touch /etc/hold");
    let pipeline = project.start(&["rotate"]);
    wait_until("node008 is reached", || project.held.exists());

    let home = format!("HOME={}", project.nodes.scratch.path().display());
    let of_job = processes(&home);
    let is_ssh = |line: &str| line.starts_with("ssh ") && line.contains(" node008 ");
    let (ssh, _) = of_job.iter().find(|(_, line)| is_ssh(line)).expect("the ssh of node008");
    let deaddrop = parent(*ssh);
    let job = (1..=4).find(|job| {
        let of_it = processes(&format!("CI_NODE_INDEX={job}"));
        of_it.iter().any(|(number, line)| *number == deaddrop && line.starts_with("deaddrop rotate "))
    });
    let job = format!("rotate: [{}/4]", job.expect("the job of this process"));
    for process in [parent(deaddrop), deaddrop] {
        kill(Pid::from_raw(process), Signal::SIGKILL).expect("killing a process of the job");
    }
    let (passed, log) = project.end(pipeline);
    assert!(!passed && log.contains(&format!("FAIL  {job}")), "{job}: {log}");
    let before = project.runs(20);
    let missing: Vec<usize> = (0..20).filter(|node| before[*node] == 0).collect();
    assert!(before.iter().all(|runs| *runs <= 1) && !missing.is_empty() && missing[0] > 8, "{before:?}");

    // The node has all that it needs, and goes on by itself.
    File::create(&project.go_on).unwrap();
    let (passed, log) = project.end(project.start(&[&job]));
    assert!(passed, "{log}");
    assert!(log.matches("nothing to do").count() > 1, "{log}");
    assert_eq!(project.runs(20), [1; 20], "{log}");
    (0..20).for_each(|node| project.values.assert_on(&project.nodes, node));
    missing.iter().for_each(|node| assert_eq!(project.nodes.connections(*node), 1, "{node}"));
}
