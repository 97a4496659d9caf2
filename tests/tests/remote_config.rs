//! Settings go from group files to real agents, in stages and back again; what agents find can be watched.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::net::{Shutdown, listen, shutdown, sockopt};
use serde_json::Value;
use veghe_tests::http;
use veghe_tests::process::{Collector, Process, agent, wait_for};

struct Site {
    collector: Collector,
    groups: PathBuf,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let data_dir = dir.path().join("data");
        let groups = dir.path().join("groups");
        fs::create_dir(&groups).expect("directory");
        let config = format!(
            "data_dir: {}\nops: {{listen: 127.0.0.1:0}}\nstatus: {{listen: 127.0.0.1:0}}\nmqtt: {{listen: 127.0.0.1:0}}\nagents:\n  groups: {}\n  rollout: {{first: 10%, soak: 1s}}\n",
            data_dir.display(),
            groups.display()
        );
        let file = dir.path().join("collector.yaml");
        fs::write(&file, config).expect("write");
        let file = file.to_str().expect("UTF-8");
        let collector = Collector::start(&data_dir, &["run", "--config", file]).expect("collector");
        Self { collector, groups, dir }
    }

    fn join(&self, id: &str, interval: &str) -> Process {
        let state_dir = self.state_dir(id);
        self.collector.join(id, &state_dir, interval).expect("join");
        agent(&state_dir).expect("agent")
    }

    fn state_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    fn group(&self, name: &str, text: &str) {
        fs::write(self.groups.join(name), text).expect("write");
    }

    fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.collector.admin(arguments)
    }

    /// Waits until `agents list` shows these words in the line of `id`.
    fn shows(&self, id: &str, words: &str) {
        let what = format!("{id} shows {words}");
        wait_for(&what, || {
            let list = self.admin(&["agents", "list"])?;
            Ok(list.lines().any(|line| line.starts_with(id) && line.contains(words)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", self.admin(&["agents", "list"])));
    }

    fn value(&self, query: &str, wanted: f64) {
        wait_for(query, || Ok(http::query_one(&self.collector.listeners.ops, query)?.filter(|value| *value == wanted)))
            .unwrap_or_else(|error| panic!("{error}: {:?}", http::query(&self.collector.listeners.ops, query)));
    }

    fn page(&self, language: &str) -> String {
        let mut url = self.collector.listeners.ops.clone();
        url.set_query(Some(&format!("lang={language}")));
        http::get(&url).expect("page")
    }
}

fn shown(state_dir: &Path) -> String {
    let program = veghe_tests::process::program("veghe-agent");
    let output = std::process::Command::new(program).args(["show-config", "--state-dir"]).arg(state_dir).output();
    String::from_utf8(output.expect("show-config").stdout).expect("text")
}

#[test]
fn settings_are_rolled_out_in_stages_refused_with_reasons_rolled_back_and_kept_for_a_start_alone() {
    let mut site = Site::new();
    let mut one = site.join("scan-1", "15s");
    let two = site.join("scan-2", "15s");
    for id in ["scan-1", "scan-2"] {
        site.shows(id, "own");
        site.admin(&["agents", "label", id, "role=scanner"]).expect("label");
    }
    site.admin(&["agents", "label", "scan-2", "canary=true"]).expect("label");

    site.group(
        "10-scanners.yaml",
        "match: {role: scanner}\nsettings:\n  interval: 300ms\n  sensors:\n    netdev: {ignore: [lo]}\n",
    );
    let said = site.admin(&["agents", "apply"]).expect("apply");
    assert!(said.contains("roll-out 1 to 2 agents"), "{said}");
    let full = site.admin(&["agents", "show", "scan-1"]).expect("show");
    assert!(full.contains("1: 1 of 2 agents are first: scan-2"), "{full}");
    // Whoever is first has it before the other.
    site.shows("scan-2", "  1");
    site.shows("scan-1", "  1");
    site.value(r#"veghe_agent_config_number{instance="scan-1"}"#, 1.0);
    site.value(r#"veghe_fleet_rollouts_total{outcome="done"}"#, 1.0);
    site.value(r#"count(node_network_up{instance="scan-1", device="lo"}) or vector(0)"#, 1.0);
    site.value(r#"count(node_network_receive_bytes_total{instance="scan-1", device="lo"}) or vector(0)"#, 0.0);
    let text = shown(&site.state_dir("scan-1"));
    assert!(text.contains("interval: 300ms  # collector\n") && text.contains("# ignore: collector\n"), "{text}");

    // What is wrong with a file is told before anybody gets it.
    site.group("20-bad.yaml", "match: {role: scanner}\nsettings:\n  intervall: 1s\n  mqtt: mqtts://elsewhere\n");
    let refused = site.admin(&["agents", "apply"]).expect_err("refused").to_string();
    assert!(refused.contains("20-bad.yaml:3: intervall: is not a known key; did you mean `interval`?"), "{refused}");
    assert!(refused.contains("20-bad.yaml:4: mqtt: is the agent's own"), "{refused}");

    // Good for the collector, but not for agents that permit no programs: nobody but the first ever gets it.
    site.group(
        "20-bad.yaml",
        "match: {role: scanner}\nsettings:\n  sensors:\n    programs: {run: [{name: x, command: [/bin/true]}]}\n",
    );
    let said = site.admin(&["agents", "apply"]).expect("apply");
    assert!(said.contains("roll-out 2 to 2 agents"), "{said}");
    wait_for("it is rolled back", || {
        Ok(site.admin(&["agents", "show", "scan-2"])?.contains("2: rolled back: scan-2 refuses them").then_some(()))
    })
    .expect("rolled back");
    let full = site.admin(&["agents", "show", "scan-2"]).expect("show");
    assert!(full.contains("sensors.programs: would run programs"), "{full}");
    for (language, words) in [("ro", "Configurație"), ("en", "Settings")] {
        let page = site.page(language);
        assert!(page.contains(words) && page.contains("would run programs"), "{page}");
    }
    site.value(r#"veghe_agent_config_refused_total{instance="scan-2"}"#, 1.0);
    site.value(r#"veghe_agent_config_refused_total{instance="scan-1"}"#, 0.0);
    // Neither of them stopped measuring for a moment, or went back.
    for id in ["scan-1", "scan-2"] {
        let now = format!(r#"veghe_agent_cycles_total{{instance="{id}"}}"#);
        let before = http::query_one(&site.collector.listeners.ops, &now).expect("query").expect("cycles");
        wait_for("cycles go on", || Ok(http::query_one(&site.collector.listeners.ops, &now)?.filter(|n| *n > before)))
            .expect("cycles");
        assert_eq!(shown(&site.state_dir(id)).matches("interval: 300ms  # collector").count(), 1);
    }

    // Alone, an agent starts with the last good ones.
    one.interrupt().expect("end");
    site.collector.process.kill().expect("kill");
    drop(two);
    let one = agent(&site.state_dir("scan-1")).expect("agent");
    wait_for("it measures at the collector's interval", || {
        let said = one.output()?;
        let alone = said.rsplit("agent starts").next().unwrap_or_default();
        Ok((alone.contains("interval_seconds=0.3") && alone.matches("cycle spooled").count() >= 3).then_some(()))
    })
    .expect("cycles");
}

/// A thing as an agent finds it: an exporter on a port that is known for one, which can end and come back there.
struct Exporter {
    listener: TcpListener,
    port: u16,
}

impl Exporter {
    fn start() -> Self {
        let listener = [9187, 9104, 9121, 9113, 9216, 9117]
            .into_iter()
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .expect("a free port");
        let port = listener.local_addr().expect("address").port();
        let exporter = Self { listener, port };
        exporter.serve();
        exporter
    }

    fn serve(&self) {
        let listener = self.listener.try_clone().expect("listener");
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // Whoever asks and goes away is no trouble of ours.
                let mut request = [0; 4096];
                let asked = stream.read(&mut request).is_ok_and(|read| read > 0);
                let body = "# HELP pg_up Whether it is up.\n# TYPE pg_up gauge\npg_up 1\n";
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                if asked {
                    stream.write_all(answer.as_bytes()).ok();
                }
            }
        });
    }

    /// Nothing listens there any more; the port stays this one's, as it is not to be used again by another.
    fn end(&self) {
        sockopt::set_socket_reuseaddr(&self.listener, false).expect("option");
        shutdown(&self.listener, Shutdown::Both).expect("shutdown");
    }

    fn come_back(&self) {
        sockopt::set_socket_reuseaddr(&self.listener, true).expect("option");
        // A connection that came at the very end may hold the port for a minute.
        wait_for("the port", || Ok(listen(&self.listener, 16).ok())).expect("listen");
        self.serve();
    }
}

/// Where a thing of nas-1 is in its life, as everything that tells of it says.
fn is_told(site: &Site, name: &str, life: &str, in_romanian: &str) {
    wait_for(&format!("{name} is {life}"), || {
        let list = site.admin(&["discovered", "list"])?;
        Ok(list.lines().any(|line| line.starts_with(life) && line.contains(name)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", site.admin(&["discovered", "list"])));
    let json = http::get(&site.collector.listeners.ops.join("/v1/agents").expect("URL")).expect("agents");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let found: Vec<&Value> =
        json["found"].as_array().expect("found").iter().filter(|found| found["name"] == name).collect();
    assert!(matches!(found[..], [one] if one["life"] == life && one["agent"] == "nas-1"), "{found:?}");
    for (language, title, word) in [("ro", "Descoperite pe mașini", in_romanian), ("en", "Found on machines", life)] {
        let page = site.page(language);
        let row = page.split("<tr>").find(|row| row.contains(&format!(">{name}<"))).unwrap_or_default();
        assert!(page.contains(title) && row.contains(&format!(">{word}</td>")), "{language}: {row}");
    }
    let metric = format!("veghe_fleet_discovered{{life=\"{life}\"}} 0\n");
    wait_for("it is counted", || {
        let metrics = http::get(&site.collector.listeners.ops.join("/metrics")?)?;
        Ok((metrics.contains("veghe_fleet_discovered") && !metrics.contains(&metric)).then_some(()))
    })
    .expect("metric");
}

#[test]
fn what_an_agent_finds_is_new_watched_when_a_person_says_so_vanished_and_back() {
    let exporter = Exporter::start();
    let site = Site::new();
    let mut agent = site.join("nas-1", "1s");
    let name = format!("127.0.0.1:{}", exporter.port);
    is_told(&site, &name, "new", "nou");
    let refused =
        site.admin(&["discovered", "watch", "nas-1", "exporter", "nothing"]).expect_err("unknown").to_string();
    assert!(refused.contains("nas-1 found no exporter nothing"), "{refused}");
    site.admin(&["discovered", "watch", "nas-1", "exporter", &name]).expect("watch");
    site.shows("nas-1", "  1");
    let pg_up = || http::query(&site.collector.listeners.ops, r#"pg_up{instance="nas-1"}"#);
    let is_measured = |measured: bool| {
        wait_for("its metrics", || Ok((pg_up()?.is_empty() != measured).then_some(())))
            .unwrap_or_else(|error| panic!("measured: {measured}: {error}"));
    };
    is_measured(true);
    is_told(&site, &name, "watched", "supravegheat");

    // It ends: what it measured ends with it, and the next look says why. Other settings of the look begin one.
    exporter.end();
    is_measured(false);
    let look_again = |interval: &str| {
        let text = format!("match: {{agent: nas-1}}\nsettings:\n  discovery: {{interval: {interval}}}\n");
        site.group("10-look.yaml", &text);
        site.admin(&["agents", "apply"]).expect("apply");
    };
    look_again("2h");
    is_told(&site, &name, "vanished", "dispărut");
    // What a person decided stays, also with the agent that starts meanwhile; and it is no failure of the agent.
    assert!(shown(&site.state_dir("nas-1")).contains(&name));
    agent.interrupt().expect("end");
    let agent = veghe_tests::process::agent(&site.state_dir("nas-1")).expect("agent");
    site.value(r#"up{instance="nas-1", job="node"} or up{instance="nas-1"} == 1"#, 1.0);
    is_told(&site, &name, "vanished", "dispărut");

    // It comes back, and is watched as before without anybody's doing.
    exporter.come_back();
    is_measured(true);
    look_again("3h");
    is_told(&site, &name, "watched", "supravegheat");

    site.admin(&["discovered", "ignore", "nas-1", "exporter", &name]).expect("ignore");
    is_measured(false);
    for language in ["ro", "en"] {
        assert!(!site.page(language).contains(&name), "nobody wants to see it");
    }
    drop(agent);
}
