//! Scrapes of servers that answer, fail, are silent or gone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread;

use url::Url;

use super::super::glob::Globs;
use super::super::http::Tls;
use super::*;

const PATIENT: Duration = Duration::from_mins(1);

/// A server that answers each connection with `answer`, or holds it open without one.
fn server(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("address").to_string();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            if let Some(answer) = answer {
                // What is left unread would end the connection before the answer is read.
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                assert!(lines.take_while(|line| !line.is_empty()).count() > 1, "a request");
                stream.write_all(answer.as_bytes()).ok();
            } else {
                held.push(stream);
            }
        }
    });
    address
}

fn target(job: &str, address: &str, timeout: Duration) -> Target {
    Target {
        job: job.to_owned(),
        url: Url::parse(&format!("http://{address}/metrics")).expect("address"),
        timeout,
        labels: vec![("site".to_owned(), "tm".to_owned())],
        drop: Globs::new(vec!["go_*".to_owned()]),
        tls: Tls::default(),
        login: None,
        rules: Vec::new(),
    }
}

#[test]
fn exporters_are_told_with_their_job_and_one_that_is_silent_or_gone_is_down() {
    let good = server(Some("HTTP/1.0 200 OK\r\n\r\npg_up{instance=\"x\",site=\"y\",db=\"a\"} 1\ngo_threads 7\n"));
    let bad = server(Some("HTTP/1.0 503 Unavailable\r\n\r\npg_up 1\n"));
    let silent = server(None);
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("port").to_string();
    let mut sensor = Scrapes::new(vec![
        target("silent", &silent, Duration::from_millis(50)),
        target("good", &good, PATIENT),
        target("bad", &bad, PATIENT),
        target("gone", &gone, PATIENT),
    ]);
    let mut sink = Sink::default();
    sensor.read(&mut sink).expect("never fails");
    let (series, values) = sink.take();
    let value = |metric: &str, job: &str| {
        let is_it =
            |name: &&SeriesName| name.metric() == metric && name.labels().iter().any(|(_, value)| **value == *job);
        series.0.iter().position(|name| is_it(&name)).map(|position| values[position])
    };
    for (job, up, samples, kept) in
        [("silent", 0.0, 0.0, 0.0), ("good", 1.0, 2.0, 1.0), ("bad", 0.0, 0.0, 0.0), ("gone", 0.0, 0.0, 0.0)]
    {
        let told = ["up", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling"];
        assert_eq!(told.map(|metric| value(metric, job)), [Some(up), Some(samples), Some(kept)], "{job}");
    }
    let labels = [("db", "a"), ("exported_instance", "x"), ("exported_site", "y"), ("job", "good"), ("site", "tm")];
    assert!(series.0.contains(&SeriesName::new("pg_up", &labels)), "{series:?}");
}

#[test]
fn openmetrics_without_its_end_was_cut_off_and_counts_as_a_whole_or_not_at_all() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\r\n";
    for (body, up) in [
        ("# TYPE a counter\na_total 3 # {trace_id=\"7\"} 0.5\na_created 1.6e9\n# EOF\n", 1.0),
        ("# TYPE a counter\na_total 3\n", 0.0),
        ("# EOF", 1.0),
    ] {
        let answer: &'static str = format!("{head}{body}").leak();
        let mut sensor = Scrapes::new(vec![target("om", &server(Some(answer)), PATIENT)]);
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let position = series.0.iter().position(|name| name.metric() == "up").expect("up");
        assert_eq!(values[position], up, "{body}");
        let is_there = series.0.iter().any(|name| name.metric() == "a_total");
        assert_eq!(is_there, body.contains("a_created"), "{body}");
    }
}
