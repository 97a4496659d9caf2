//! The real program: it ends as service managers and people expect, and says why nobody wants it.

use std::io::{BufRead as _, BufReader};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// `veghe-agent run`; what it says on stderr comes line by line.
struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    fn run(state_dir: &Path, port: u16) -> Self {
        let agent: AgentId = AGENT.parse().unwrap();
        let settings = veghe_agent::config::first(&agent, &format!("mqtts://127.0.0.1:{port}"));
        let settings = settings.replace("interval: 15s", "interval: 100ms");
        fs::write(state_dir.join("agent.yaml"), settings).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_veghe-agent"))
            .args(["run", "--state-dir"])
            .arg(state_dir)
            .env("RUST_LOG", "veghe_agent=debug")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, told) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line)));
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    fn count(&self, words: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the spool still holds once the program has ended.
fn left_in_spool(state_dir: &Path) -> u64 {
    Spool::open(&state_dir.join("spool"), Limits::default()).unwrap().batches()
}

#[tokio::test]
async fn sigterm_and_sigint_deliver_what_was_taken_say_goodbye_and_exit_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let collector = place.collector(|_, _| Answer::Accept).await;
        let mut program = Program::run(&place.state_dir(), place.broker.port);
        until("three accepted", || collector.seen.lock().unwrap().accepted.len() >= 3).await;
        program.signal(signal);
        let status = program.end().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}: {:?}", program.log.lock().unwrap());
        until("offline was told", || collector.seen.lock().unwrap().online == [true, false]).await;
        assert_eq!(left_in_spool(&place.state_dir()), 0, "{signal:?}");
        let seen = collector.seen.lock().unwrap();
        let sequences: Vec<_> = seen.accepted.keys().map(|(_, sequence)| *sequence).collect();
        assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>(), "{signal:?}");
    }
}

#[tokio::test]
async fn a_signal_while_nobody_answers_keeps_what_was_taken_for_the_next_start() {
    let mut place = Place::new();
    place.broker.kill();
    let mut program = Program::run(&place.state_dir(), place.broker.port);
    until("five cycles", || program.count("cycle spooled") >= 5).await;
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
    let kept = left_in_spool(&place.state_dir());
    assert!(kept >= 5, "{kept}");
    place.broker.restart();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let mut program = Program::run(&place.state_dir(), place.broker.port);
    until("the first run's batches arrive", || {
        let seen = collector.seen.lock().unwrap();
        let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
        seen.accepted.keys().for_each(|(spool_id, _)| *runs.entry(*spool_id).or_default() += 1);
        runs.len() == 2 && runs.values().any(|count| *count == kept)
    })
    .await;
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_refusal_is_told_once_while_attempts_go_on() {
    let place = Place::new();
    // A certificate that this broker's CA did not sign.
    let (certificate, key) = Authority::new().sign(AGENT, 0);
    fs::write(place.state_dir().join("agent.crt"), certificate).unwrap();
    fs::write(place.state_dir().join("agent.key"), key).unwrap();
    let mut program = Program::run(&place.state_dir(), place.broker.port);
    until("attempts go on", || program.count("still no connection") >= 2).await;
    let refusals = program.count("refused by the collector");
    assert_eq!(refusals, 1, "{:?}", program.log.lock().unwrap());
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
}
