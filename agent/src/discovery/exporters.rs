//! Prometheus exporters that listen on this machine: by the kernel's table of sockets, known ports, and one polite request.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use veghe_wire::remote::Finding;

use super::plain;

/// An exporter answers at once, or it is asked again tomorrow.
const PATIENCE: Duration = Duration::from_secs(1);
/// The head and the first families.
const MAX_ANSWER_BYTES: usize = 8 << 10;
/// Lines of the table of sockets that are read.
const MAX_SOCKETS: usize = 100_000;

/// A port, the job's usual name, and what it is of, as in Prometheus' list of default ports. `node_exporter` is not
/// among them: the agent itself has its series.
pub(super) const KNOWN: &[(u16, &str, &str)] = &[
    (8404, "haproxy", "HAProxy"),
    (9104, "mysql", "MySQL or MariaDB"),
    (9113, "nginx", "nginx"),
    (9114, "elasticsearch", "Elasticsearch"),
    (9117, "apache", "Apache"),
    (9121, "redis", "Redis"),
    (9134, "zfs", "ZFS"),
    (9150, "memcached", "memcached"),
    (9153, "coredns", "CoreDNS"),
    (9154, "postfix", "Postfix"),
    (9166, "dovecot", "Dovecot"),
    (9167, "unbound", "Unbound"),
    (9187, "postgres", "PostgreSQL"),
    (9199, "nut", "UPS by NUT"),
    (9216, "mongodb", "MongoDB"),
    (9221, "pve", "Proxmox"),
    (9253, "phpfpm", "PHP-FPM"),
    (9256, "process", "processes"),
    (9308, "kafka", "Kafka"),
    (9323, "docker", "Docker"),
    (9335, "minio", "MinIO"),
    (9419, "rabbitmq", "RabbitMQ"),
    (9500, "ceph", "Ceph"),
    (9633, "smartctl", "SMART"),
    (9753, "restic", "restic"),
    (9882, "podman", "Podman"),
    (15692, "rabbitmq", "RabbitMQ"),
];

/// The exporters of `known` that answer on loopback.
pub(super) fn look(proc: &Path, known: &[(u16, &str, &str)]) -> Vec<Finding> {
    let listening = listening(proc);
    let answering = known.iter().filter(|(port, ..)| listening.contains(port) && answers(*port));
    answering
        .map(|(port, job, what)| {
            let name = format!("127.0.0.1:{port}");
            let settings = format!(
                "sensors:\n  scrapes:\n    scrape_configs:\n      - {{job_name: {job}, static_configs: [{{targets: [\"{name}\"]}}]}}\n"
            );
            Finding { settings, ..plain("exporter", name, *what) }
        })
        .collect()
}

/// Ports that take connections on loopback.
fn listening(proc: &Path) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(text) = fs::read_to_string(proc.join(table)) else { continue };
        for line in text.lines().skip(1).take(MAX_SOCKETS) {
            let mut fields = line.split_whitespace().skip(1);
            let (Some(local), _, Some("0A")) = (fields.next(), fields.next(), fields.next()) else { continue };
            let Some((address, port)) = local.split_once(':') else { continue };
            // 127.0.0.0/8 in the order of the machine, ::1, or any address.
            let is_any = address.bytes().all(|byte| byte == b'0');
            let is_loopback = (address.len() == 8 && (address.ends_with("7F") || address.starts_with("7F")))
                || matches!(address, "00000000000000000000000001000000" | "0000000000000000FFFF00000100007F");
            if is_any || is_loopback {
                ports.extend(u16::from_str_radix(port, 16));
            }
        }
    }
    ports
}

/// Whether `GET /metrics` there begins as Prometheus' text does.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let agent = concat!("veghe-agent/", env!("CARGO_PKG_VERSION"));
        // In one piece: a server that answers before it has read the rest would cut the connection.
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: {agent}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let begin = crate::clock::instant();
        let mut piece = [0; 2048];
        while answer.len() < MAX_ANSWER_BYTES && begin.elapsed() < PATIENCE * 2 && !is_metrics(&answer) {
            match stream.read(&mut piece)? {
                0 => break,
                read => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
        Ok(answer)
    };
    ask().is_ok_and(|answer| is_metrics(&answer))
}

fn is_metrics(answer: &[u8]) -> bool {
    let has = |words: &[u8]| answer.windows(words.len()).any(|part| part == words);
    let is_success = answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200");
    is_success && (has(b"\n# HELP ") || has(b"\n# TYPE "))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers every request with `answer`, or never.
    fn serve(answer: Option<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("address").port();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for mut stream in listener.incoming().flatten() {
                match answer {
                    Some(answer) => {
                        let asked = stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0);
                        assert!(asked, "a request comes first");
                        stream.write_all(answer.as_bytes()).ok();
                    }
                    None => silent.push(stream),
                }
            }
        });
        port
    }

    #[test]
    fn only_what_speaks_prometheus_text_on_a_known_port_is_an_exporter() {
        let exporter = serve(Some(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n# HELP pg_up Up.\n# TYPE pg_up gauge\npg_up 1\n",
        ));
        let page = serve(Some("HTTP/1.1 200 OK\r\n\r\n<html># HELP</html>"));
        let refusal = serve(Some("HTTP/1.1 401 Unauthorized\r\n\r\n# HELP x y\n"));
        let silent = serve(None);
        let unknown = serve(Some("HTTP/1.1 200 OK\r\n\r\n# HELP x y\n"));
        let known = [
            (exporter, "postgres", "PostgreSQL"),
            (page, "x", ""),
            (refusal, "x", ""),
            (silent, "x", ""),
            (1, "x", ""),
        ];
        let found = look(Path::new("/proc"), &known);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, format!("127.0.0.1:{exporter}"));
        assert!(!found[0].name.ends_with(&format!(":{unknown}")));
        let node = crate::remote::check(Path::new("x"), &found[0].settings, crate::remote::Programs::Refused);
        assert!(node.expect("valid settings").at("sensors.scrapes").is_some());
    }

    #[test]
    fn sockets_of_other_addresses_and_states_do_not_count() {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("net")).expect("directory");
        let head = "  sl  local_address rem_address   st tx_queue\n";
        let tcp = format!(
            "{head}   0: 0100007F:23E3 00000000:0000 0A 0\n   1: 0100A8C0:23E4 00000000:0000 0A 0\n   2: 0100007F:23E5 0100007F:A000 01 0\n   3: 00000000:23E6 00000000:0000 0A 0\n garbage\n"
        );
        let tcp6 = format!(
            "{head}   0: 00000000000000000000000001000000:23E7 0:0 0A 0\n   1: B80D0120000000000000000001000000:23E8 0:0 0A 0\n"
        );
        fs::write(dir.path().join("net/tcp"), tcp).expect("write");
        fs::write(dir.path().join("net/tcp6"), tcp6).expect("write");
        assert_eq!(listening(dir.path()), BTreeSet::from([0x23E3, 0x23E6, 0x23E7]));
    }
}
