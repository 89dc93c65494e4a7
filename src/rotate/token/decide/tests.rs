//! What is decided in each state, and whole rotations of a model of k3s, cut off at every step.

use super::*;

const OLD: Token = Token(1);
/// Another one.
const OLDER: Token = Token(2);

/// A host that is as a finished cluster with this token has it.
fn server(token: Token) -> Seen {
    Seen {
        role: Role::Server(Server { runs: Runs::With(token), own: Some(token), is_ready: true, has_data: true }),
        ..agent(token)
    }
}

fn agent(token: Token) -> Seen {
    Seen {
        role: Role::Agent,
        life: Life::Up,
        file: Some(token),
        kept: None,
        differs: token != DECLARED,
        written: false,
        waits: false,
        is_stale: false,
        awaited: false,
        restarted: false,
        is_unfit: false,
    }
}

/// A server with another answer, own copy and file.
fn with(runs: Runs, own: Option<Token>, file: Token) -> Seen {
    let life = if matches!(runs, Runs::Silent) { Life::Down } else { Life::Up };
    let role = Role::Server(Server { runs, own, is_ready: matches!(runs, Runs::With(_)), has_data: true });
    Seen { role, life, ..agent(file) }
}

fn decided(hosts: &[Seen]) -> Step {
    decide(hosts, None, true)
}

#[test]
fn each_state_of_a_cluster_has_its_next_step() {
    let stranger = Seen { role: Role::Stranger, ..agent(OLD) };
    let unreachable = Seen { role: Role::Unreachable, ..agent(OLD) };
    let waiting =
        Seen { waits: true, life: Life::Starting, differs: true, file: None, ..with(Runs::Silent, None, OLD) };
    let (old, new, asked) = (server(OLD), server(DECLARED), with(Runs::With(OLD), Some(DECLARED), OLD));
    let down = |own, file| with(Runs::Silent, Some(own), file);
    let (n, o) = (DECLARED, OLD);
    for (name, hosts, want) in [
        ("no cluster", vec![stranger, stranger], Step::Ordinary),
        ("a new cluster", vec![waiting, Seen { differs: true, file: None, ..agent(OLD) }], Step::Place),
        ("a new cluster with its file", vec![Seen { differs: false, ..waiting }], Step::Done),
        ("agents alone", vec![agent(OLD), agent(DECLARED)], Step::Write(n)),
        ("as declared", vec![new, new, agent(n)], Step::Done),
        ("as declared, and one is down", vec![new, down(n, n), agent(n)], Step::Done),
        ("the old one", vec![old, old, agent(o)], Step::Rotate { server: 0, old: o }),
        ("the old one, and one waits", vec![waiting, old], Step::Rotate { server: 1, old: o }),
        (
            "the file of one was changed before",
            vec![old, with(Runs::With(o), Some(o), n)],
            Step::Rotate { server: 0, old: o },
        ),
        ("asked", vec![old, asked], Step::Confirm { server: 1, old: o, new: n }),
        (
            "asked, and others are down",
            vec![asked, down(o, o), unreachable],
            Step::Confirm { server: 0, old: o, new: n },
        ),
        ("asked for, and the server is down", vec![down(n, o), old, old], Step::Write(n)),
        ("the only server is down since", vec![down(n, o)], Step::Write(n)),
        (
            "written",
            vec![with(Runs::With(o), Some(n), n), with(Runs::With(o), Some(o), n)],
            Step::Confirm { server: 0, old: o, new: n },
        ),
        ("one restarted", vec![new, with(Runs::With(o), Some(o), n)], Step::Restart(1, n)),
        (
            "one restarted, one has the old file",
            vec![new, with(Runs::With(o), Some(o), n), with(Runs::With(o), Some(o), o)],
            Step::Write(n),
        ),
        ("one restarted, and the agents say it", vec![new, old, agent(n)], Step::Write(n)),
        ("one restarted, and what was kept says it", vec![Seen { kept: Some(o), ..new }, old], Step::Write(n)),
        ("one restarted, and nothing says it", vec![new, old], several(&[0, 1])),
        ("one restarted, one is down", vec![new, with(Runs::With(o), Some(o), n), down(o, n)], Step::Restart(2, n)),
        ("all restarted, an agent is not", vec![new, Seen { is_stale: true, ..agent(n) }], Step::RestartAgent(1)),
        (
            "all files were written again",
            vec![Seen { is_stale: true, ..new }, Seen { is_stale: true, ..agent(n) }],
            Step::Done,
        ),
        // Its turn comes first, for it has missed a rotation.
        ("one is down since an older one", vec![down(OLDER, OLDER), old, old], Step::Write(o)),
        ("another one is under way", vec![server(OLDER), with(Runs::With(o), Some(o), OLDER)], Step::Restart(1, OLDER)),
        (
            "back to the old one in the middle",
            vec![server(OLDER), with(Runs::With(n), Some(n), OLDER)],
            Step::Restart(1, OLDER),
        ),
        ("requests for two tokens", vec![asked, with(Runs::With(o), Some(OLDER), o)], several(&[0, 1])),
    ] {
        assert_eq!(decided(&hosts), want, "{name}");
    }
}

fn several(hosts: &[usize]) -> Step {
    Step::Refuse(hosts.iter().map(|host| (*host, Why::SeveralTokens)).collect())
}

#[test]
fn before_the_request_each_of_these_is_a_refusal() {
    let old = server(OLD);
    let silent = |life| Seen { life, ..with(Runs::Silent, Some(OLD), OLD) };
    for (host, why) in [
        (Seen { role: Role::Unreachable, ..old }, Why::Unreachable),
        (Seen { role: Role::Stranger, ..old }, Why::NoUnit),
        (Seen { is_unfit: true, ..old }, Why::Unfit),
        (Seen { is_unfit: true, ..agent(OLD) }, Why::Unfit),
        (silent(Life::Down), Why::Down),
        (Seen { awaited: true, ..silent(Life::Starting) }, Why::NotReady),
        (Seen { awaited: true, ..silent(Life::Up) }, Why::NotReady),
        (with(Runs::TooOld, Some(OLD), OLD), Why::TooOld),
        (with(Runs::WithAnother, Some(OLD), OLD), Why::UnknownToken),
        (with(Runs::Unasked, Some(OLD), OLD), Why::NoCurl),
    ] {
        assert_eq!(decided(&[old, host]), Step::Refuse(vec![(1, why)]), "{why:?}");
        // After the request none of them holds it up: it is written where that is possible, at once.
        let after = decide(&[old, host], Some(DECLARED), true);
        assert_eq!(after, Step::Write(DECLARED), "{why:?}");
    }
    assert_eq!(decide(&[old], None, false), Step::Refuse(vec![(0, Why::BadToken)]));
    // One that is being started is waited for.
    for life in [Life::Starting, Life::Up] {
        assert_eq!(decided(&[old, silent(life)]), Step::Wait(vec![1]));
    }
    let unready = Role::Server(Server { runs: Runs::With(OLD), own: Some(OLD), is_ready: false, has_data: true });
    assert_eq!(decided(&[old, Seen { role: unready, ..old }]), Step::Wait(vec![1]));
}

/// A model of k3s: what is on each host's disk and in its memory, and the token of the datastore.
#[derive(Clone)]
struct Model {
    data: Token,
    hosts: Vec<Modelled>,
    /// A server has started with a token that was not that of the data.
    trapped: bool,
}

#[derive(Clone, Copy)]
struct Modelled {
    is_server: bool,
    file: Token,
    own: Token,
    runs: Option<Token>,
    /// Of this run: its file was written, its unit restarted.
    written: bool,
    restarted: bool,
    is_stale: bool,
}

impl Model {
    fn new(servers: usize, agents: usize) -> Self {
        let host = |is_server| Modelled {
            is_server,
            file: OLD,
            own: OLD,
            runs: Some(OLD),
            written: false,
            restarted: false,
            is_stale: false,
        };
        let hosts = (0..servers + agents).map(|number| host(number < servers)).collect();
        Self { data: OLD, hosts, trapped: false }
    }

    fn seen(&self) -> Vec<Seen> {
        let see = |host: &Modelled| {
            let base = match (host.is_server, host.runs) {
                (false, _) => agent(host.file),
                (true, Some(token)) => with(Runs::With(token), Some(host.own), host.file),
                (true, None) => with(Runs::Silent, Some(host.own), host.file),
            };
            Seen { written: host.written, restarted: host.restarted, is_stale: host.is_stale, ..base }
        };
        self.hosts.iter().map(see).collect()
    }

    fn restart(&mut self, number: usize) {
        let (data, host) = (self.data, &mut self.hosts[number]);
        host.restarted = true;
        host.is_stale = false;
        if !host.is_server || host.file == data {
            host.runs = Some(host.file);
            host.own = host.file;
        } else {
            host.runs = None;
            self.trapped = true;
        }
    }

    /// Runs until the end, or until this many effects were made. True at the end.
    fn run(&mut self, mut effects: usize) -> bool {
        let mut through = None;
        for host in &mut self.hosts {
            (host.written, host.restarted) = (false, false);
        }
        for _ in 0..100 {
            let step = decide(&self.seen(), through, true);
            let mut spend = || {
                let left = effects > 0;
                effects = effects.saturating_sub(1);
                left
            };
            match step {
                Step::Done => return true,
                Step::Rotate { server, .. } | Step::Confirm { server, .. } => {
                    let new = if let Step::Confirm { new, .. } = step { new } else { DECLARED };
                    // Its own files, then the data.
                    if !spend() {
                        return false;
                    }
                    self.hosts[server].own = new;
                    if !spend() {
                        return false;
                    }
                    self.data = new;
                    through = Some(new);
                    if matches!(step, Step::Rotate { .. }) {
                        self.hosts.iter_mut().for_each(|host| (host.written, host.restarted) = (false, false));
                    }
                }
                Step::Write(token) => {
                    assert_eq!(token, self.data, "a file of another token");
                    for number in 0..self.hosts.len() {
                        if !spend() {
                            return false;
                        }
                        let host = &mut self.hosts[number];
                        if host.file != token {
                            (host.is_stale, host.written) = (true, true);
                        }
                        host.file = token;
                    }
                }
                Step::Restart(number, _) | Step::RestartAgent(number) => {
                    if !spend() {
                        return false;
                    }
                    self.restart(number);
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it does not end");
    }

    fn assert_on(&self, token: Token) {
        assert_eq!(self.data, token);
        assert!(!self.trapped, "a server has started with the wrong token");
        for host in &self.hosts {
            assert_eq!((host.file, host.runs, host.is_stale), (token, Some(token), false));
        }
    }
}

#[test]
fn cut_off_after_every_effect_the_next_run_ends_on_one_token() {
    for (servers, agents) in [(1, 0), (1, 1), (2, 0), (3, 2)] {
        let mut effects = 0;
        loop {
            let mut cluster = Model::new(servers, agents);
            let is_done = cluster.run(effects);
            let cut = cluster.clone();
            assert!(cluster.run(usize::MAX), "{effects}");
            cluster.assert_on(DECLARED);
            // Cut off a second time, anywhere.
            for again in 0..20 {
                let mut cluster = cut.clone();
                cluster.run(again);
                cluster.run(usize::MAX);
                cluster.assert_on(DECLARED);
            }
            if is_done {
                break;
            }
            effects += 1;
        }
        assert!(effects > servers + agents);
    }
}

#[test]
fn with_another_token_in_the_manifest_after_the_cut_the_first_one_comes_to_its_end_first() {
    for effects in 0..14 {
        let mut cluster = Model::new(3, 2);
        cluster.run(effects);
        // What was declared has another number now.
        let renumber = |token: Token| if token == DECLARED { OLDER } else { token };
        cluster.data = renumber(cluster.data);
        for host in &mut cluster.hosts {
            (host.file, host.own, host.runs) = (renumber(host.file), renumber(host.own), host.runs.map(renumber));
        }
        assert!(cluster.run(usize::MAX), "{effects}");
        cluster.assert_on(DECLARED);
    }
}
