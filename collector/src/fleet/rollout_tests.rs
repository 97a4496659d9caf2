//! A fleet on paper: agents that obey, refuse, fall silent, and a clock that is moved by hand.

use super::*;

struct World {
    state: State,
    desired: BTreeMap<String, Document>,
    canaries: BTreeSet<String>,
    pulses: BTreeMap<String, Pulse>,
    settings: Settings,
    now: Timestamp,
}

fn document(text: &str) -> Document {
    if text.is_empty() {
        return Document::default();
    }
    Document { hash: veghe_wire::enrolment::to_hex(&Sha256::digest(text.as_bytes())), text: text.to_owned() }
}

impl World {
    /// Agents `a00`, `a01` and so on, all connected, with nothing.
    fn of(count: usize) -> Self {
        let mut world = Self {
            state: State::default(),
            desired: BTreeMap::new(),
            canaries: BTreeSet::new(),
            pulses: BTreeMap::new(),
            settings: Settings::default(),
            now: Timestamp(1_800_000_000_000),
        };
        for i in 0..count {
            let agent = format!("a{i:02}");
            world.pulses.insert(agent.clone(), Pulse { is_connected: true, last_seen: Some(world.now) });
            world.tell(&agent, &Report::default());
            world.desired.insert(agent, Document::default());
        }
        world
    }

    fn tell(&mut self, agent: &str, report: &Report) {
        let told = Told::after(self.state.told.get(agent), report, self.now);
        self.state.told.insert(agent.to_owned(), told);
    }

    fn want(&mut self, text: &str) {
        self.desired.values_mut().for_each(|desired| *desired = document(text));
    }

    fn pass(&mut self, minutes: u64) {
        self.now = self.now.saturating_add(Duration::from_mins(minutes));
        for pulse in self.pulses.values_mut().filter(|pulse| pulse.is_connected) {
            pulse.last_seen = Some(self.now);
        }
        self.step();
    }

    fn step(&mut self) {
        self.state.step(&self.desired, &self.canaries, &self.pulses, &self.settings, self.now);
    }

    /// Agents for whom something is due take it, off trial at once, unless `refuses` says otherwise.
    fn obey(&mut self, refuses: impl Fn(&str) -> bool) {
        let agents: Vec<String> = self.desired.keys().cloned().collect();
        for agent in agents.iter().filter(|agent| self.state.is_due(agent)).cloned().collect::<Vec<_>>() {
            let wanted = self.state.wanted(&agent);
            let (_, hash) = self.state.text(&wanted.hash).expect("the text is there");
            let told = self.state.told[&agent].clone();
            let report = if refuses(&agent) {
                let reasons =
                    vec![veghe_wire::remote::Reason { line: 3, key: "interval".into(), message: "is odd".into() }];
                Report {
                    number: told.number,
                    hash: told.hash,
                    refused_number: wanted.number,
                    refused_hash: hash,
                    reasons,
                    ..Report::default()
                }
            } else {
                Report { number: wanted.number, hash, ..Report::default() }
            };
            self.tell(&agent, &report);
        }
        self.step();
    }

    fn running(&self, text: &str) -> usize {
        self.state.told.values().filter(|told| told.hash == document(text).hash).count()
    }

    fn stage(&self) -> Stage {
        self.state.rollout.as_ref().expect("a roll-out").stage
    }
}

#[test]
fn a_tenth_is_first_and_the_rest_follows_after_the_soak() {
    let mut world = World::of(30);
    world.want("interval: 30s\n");
    world.step();
    world.obey(|_| false);
    assert_eq!((world.running("interval: 30s\n"), world.stage()), (3, Stage::First));
    world.pass(9);
    world.obey(|_| false);
    assert_eq!(world.running("interval: 30s\n"), 3, "not before they have lasted");
    world.pass(1);
    world.obey(|_| false);
    assert_eq!((world.running("interval: 30s\n"), world.stage()), (30, Stage::Rest));
    world.pass(10);
    assert_eq!(world.stage(), Stage::Done);
    // Whoever comes later gets what has lasted at once.
    world.pulses.insert("late".into(), Pulse { is_connected: true, last_seen: Some(world.now) });
    world.tell("late", &Report::default());
    world.desired.insert("late".into(), document("interval: 30s\n"));
    world.step();
    world.obey(|_| false);
    assert_eq!((world.running("interval: 30s\n"), world.state.number), (31, 1));
}

#[test]
fn agents_with_the_label_are_first() {
    let mut world = World::of(30);
    world.canaries = ["a07".to_owned(), "a21".to_owned()].into();
    world.want("interval: 30s\n");
    world.step();
    assert_eq!(world.state.rollout.as_ref().expect("one").first, world.canaries);
}

#[test]
fn a_refusal_stops_it_and_the_same_settings_are_not_tried_again_until_a_person_says_so() {
    let mut world = World::of(30);
    world.want("interval: 20s\n");
    world.step();
    for _ in 0..3 {
        world.obey(|_| false);
        world.pass(10);
    }
    assert_eq!(world.running("interval: 20s\n"), 30);
    world.want("interval: 1s\n");
    world.step();
    let first = world.state.rollout.as_ref().expect("one").first.clone();
    let refusing = first.first().expect("one").clone();
    world.obey(|agent| agent == refusing);
    let rollout = world.state.rollout.clone().expect("one");
    assert_eq!(rollout.stage, Stage::RolledBack);
    assert_eq!(rollout.reason, Some(format!("{refusing} refuses them: line 3: interval: is odd")));
    world.obey(|_| false);
    assert_eq!(world.running("interval: 20s\n"), 30, "those that had taken them went back");
    world.pass(60);
    world.obey(|_| false);
    assert_eq!((world.running("interval: 1s\n"), world.state.number), (0, 2));
    world.state.retry();
    world.step();
    assert_eq!((world.stage(), world.state.number), (Stage::First, 3));
    // Other settings need nobody's word.
    world.want("interval: 2s\n");
    world.step();
    assert_eq!((world.stage(), world.state.number), (Stage::First, 4));
}

#[test]
fn one_that_falls_silent_or_whose_sensors_fail_stops_it() {
    for trouble in ["silent", "sensors", "taking"] {
        let mut world = World::of(10);
        world.want("interval: 30s\n");
        world.step();
        let first = world.state.rollout.as_ref().expect("one").first.first().expect("one").clone();
        let wanted = world.state.wanted(&first);
        let report = Report { number: 1, hash: wanted.hash, ..Report::default() };
        match trouble {
            "silent" => {
                world.tell(&first, &report);
                world.pulses.get_mut(&first).expect("pulse").is_connected = false;
                world.pass(1);
                assert_eq!(world.stage(), Stage::First, "it may come back");
                world.pass(1);
            }
            "sensors" => {
                world.tell(&first, &Report { on_trial: true, failing: vec!["scrapes".into()], ..report.clone() });
                world.step();
                assert_eq!(world.stage(), Stage::First, "on trial nothing is said yet");
                world.tell(&first, &Report { failing: vec!["scrapes".into()], ..report });
                world.step();
            }
            _ => world.pass(10),
        }
        assert_eq!(world.stage(), Stage::RolledBack, "{trouble}");
        assert!(world.state.rollout.as_ref().and_then(|r| r.reason.as_ref()).is_some_and(|r| r.contains(&first)));
    }
}

#[test]
fn a_sensor_that_failed_before_does_not_stop_it() {
    let mut world = World::of(1);
    world.tell("a00", &Report { failing: vec!["zfs".into()], ..Report::default() });
    world.want("interval: 30s\n");
    world.step();
    let wanted = world.state.wanted("a00");
    world.tell("a00", &Report { number: 1, hash: wanted.hash, failing: vec!["zfs".into()], ..Report::default() });
    for _ in 0..2 {
        world.pass(10);
    }
    assert_eq!(world.stage(), Stage::Rest);
}

#[test]
fn a_tenth_of_the_rest_may_fail_and_more_takes_everybody_back() {
    for (failing, stage) in [(2, Stage::Done), (3, Stage::RolledBack)] {
        let mut world = World::of(20);
        world.want("interval: 30s\n");
        world.step();
        world.obey(|_| false);
        world.pass(10);
        let first = world.state.rollout.as_ref().expect("one").first.clone();
        let refusing: BTreeSet<String> =
            world.desired.keys().filter(|agent| !first.contains(*agent)).take(failing).cloned().collect();
        world.obey(|agent| refusing.contains(agent));
        world.pass(10);
        assert_eq!(world.stage(), stage, "{failing}");
        world.obey(|_| false);
        let running = if stage == Stage::Done { 18 } else { 0 };
        assert_eq!(world.running("interval: 30s\n"), running);
    }
}

#[test]
fn nobody_connected_means_waiting_and_whoever_comes_is_first() {
    let mut world = World::of(3);
    world.pulses.values_mut().for_each(|pulse| pulse.is_connected = false);
    world.want("interval: 30s\n");
    world.step();
    for _ in 0..5 {
        world.pass(60);
        assert_eq!(world.stage(), Stage::First);
    }
    let first = world.state.rollout.as_ref().expect("one").first.clone();
    let other = world.desired.keys().find(|agent| !first.contains(*agent)).expect("another").clone();
    world.pulses.get_mut(&other).expect("pulse").is_connected = true;
    world.step();
    assert_eq!(world.state.rollout.as_ref().expect("one").first, BTreeSet::from([other]));
}

#[test]
fn settings_that_are_taken_away_leave_the_agents_own_file_at_once() {
    let mut world = World::of(2);
    world.want("interval: 30s\n");
    for _ in 0..4 {
        world.pass(10);
        world.obey(|_| false);
    }
    assert_eq!(world.running("interval: 30s\n"), 2);
    world.want("");
    world.step();
    world.obey(|_| false);
    assert_eq!(world.running(""), 2);
    assert!(world.desired.keys().all(|agent| !world.state.is_due(agent)));
}

#[test]
fn what_is_remembered_survives_as_json() {
    let mut world = World::of(5);
    world.want("interval: 30s\n");
    world.step();
    world.obey(|_| false);
    let text = serde_json::to_string(&world.state).expect("json");
    assert_eq!(serde_json::from_str::<State>(&text).expect("state"), world.state);
}

proptest::proptest! {
    /// Whatever agents do, each is only ever told to run what the files said for it at some time, and its text is there.
    #[test]
    fn nobody_gets_what_was_never_meant(steps in proptest::collection::vec((0_usize..6, 0_usize..6, 0_u64..12), 1..60)) {
        let mut world = World::of(6);
        let mut meant: BTreeSet<String> = [String::new()].into();
        for (what, which, minutes) in steps {
            let agent = format!("a{which:02}");
            match what {
                0 => {
                    let text = format!("interval: {}s\n", which + 1);
                    meant.insert(document(&text).hash);
                    world.want(&text);
                }
                1 => world.pulses.get_mut(&agent).expect("pulse").is_connected ^= true,
                2 => world.obey(|other| other == agent),
                3 => world.state.retry(),
                _ => world.obey(|_| false),
            }
            world.pass(minutes);
            for agent in world.desired.keys() {
                let wanted = world.state.wanted(agent);
                proptest::prop_assert!(meant.contains(&wanted.hash));
                proptest::prop_assert!(world.state.text(&wanted.hash).is_some());
            }
        }
    }
}
