//! Goobi and Kitodo in a real `MariaDB`, with the tables and columns that theirs have, before a real collector.
//!
//! The schemas name what the collector reads, with their types, engines and character sets: intranda/goobi-workflow,
//! `goobi_blank.sql`, and kitodo/kitodo-production, its migrations.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::http;
use crate::process::{Collector, Process, wait_for};

/// Goobi's tables, those that are read.
pub const GOOBI: &str = "
CREATE DATABASE goobi CHARACTER SET utf8mb4;
USE goobi;
CREATE TABLE projekte (ProjekteID int(11) NOT NULL AUTO_INCREMENT, Titel varchar(255), PRIMARY KEY (ProjekteID))
  ENGINE=MyISAM DEFAULT CHARSET=utf8mb4;
CREATE TABLE prozesse (ProzesseID int(11) NOT NULL AUTO_INCREMENT, Titel varchar(255), IstTemplate tinyint(1) DEFAULT 0,
  ProjekteID int(11), PRIMARY KEY (ProzesseID)) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4;
CREATE TABLE prozesseeigenschaften (prozesseeigenschaftenID int(11) NOT NULL AUTO_INCREMENT, Titel varchar(255),
  WERT text, prozesseID int(11), PRIMARY KEY (prozesseeigenschaftenID), KEY p (prozesseID))
  ENGINE=MyISAM DEFAULT CHARSET=utf8mb4;
CREATE TABLE schritte (SchritteID int(11) NOT NULL AUTO_INCREMENT, Titel varchar(255), Bearbeitungsstatus int(11) DEFAULT 0,
  ProzesseID int(11), PRIMARY KEY (SchritteID)) ENGINE=MyISAM DEFAULT CHARSET=utf8mb4;
CREATE TABLE history (historyid int(11) NOT NULL AUTO_INCREMENT, numericvalue double, stringvalue varchar(255),
  type int(11), date datetime, processID int(11), PRIMARY KEY (historyid), KEY p (processID))
  ENGINE=MyISAM DEFAULT CHARSET=utf8mb4;
INSERT INTO projekte VALUES (1, 'Arhiva CJT'), (2, 'Altceva');
INSERT INTO schritte (Titel, ProzesseID) VALUES ('Einspielen der Images', 1), ('Qualitätskontrolle', 1), ('Archivierung', 1);
CREATE USER veghe@'%' IDENTIFIED BY 'secret';
GRANT SELECT ON goobi.history TO veghe@'%';
GRANT SELECT ON goobi.prozesse TO veghe@'%';
GRANT SELECT ON goobi.projekte TO veghe@'%';
GRANT SELECT ON goobi.schritte TO veghe@'%';
GRANT SELECT ON goobi.prozesseeigenschaften TO veghe@'%';
";

/// Kitodo's tables, those that are read.
pub const PRODUCTION_3: &str = "
CREATE DATABASE kitodo CHARACTER SET utf8mb4;
USE kitodo;
CREATE TABLE project (id int(11) NOT NULL AUTO_INCREMENT, title varchar(255), PRIMARY KEY (id)) ENGINE=InnoDB;
CREATE TABLE process (id int(11) NOT NULL AUTO_INCREMENT, title varchar(255), project_id int(11), PRIMARY KEY (id))
  ENGINE=InnoDB;
CREATE TABLE task (id int(11) NOT NULL AUTO_INCREMENT, title varchar(255), ordering int(11), processingStatus int(11),
  processingTime datetime, processingBegin datetime, processingEnd datetime, correction tinyint(1), process_id int(11),
  template_id int(11), PRIMARY KEY (id)) ENGINE=InnoDB;
CREATE TABLE comment (id int(11) NOT NULL AUTO_INCREMENT, message longtext, type varchar(9), isCorrected tinyint(1),
  creationDate datetime, correctionDate datetime, user_id int(11), currentTask_id int(11), correctionTask_id int(11),
  process_id int(11), PRIMARY KEY (id)) ENGINE=InnoDB;
CREATE TABLE property (id int(11) NOT NULL AUTO_INCREMENT, title varchar(255), value longtext, PRIMARY KEY (id)) ENGINE=InnoDB;
CREATE TABLE process_x_property (process_id int(11) NOT NULL, property_id int(11) NOT NULL,
  PRIMARY KEY (process_id, property_id)) ENGINE=InnoDB;
INSERT INTO project VALUES (1, 'Arhiva CJT');
GRANT SELECT ON kitodo.* TO veghe@'%';
";

/// A database server of this test's own.
pub struct MariaDb {
    _process: Process,
    socket: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// The certificate that it shows.
    pub ca_file: PathBuf,
}

impl MariaDb {
    /// Starts one in `dir` whose first statements are `sql`.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start(dir: &Path, sql: &str) -> anyhow::Result<Self> {
        let data = dir.join("mariadb");
        fs::create_dir_all(&data)?;
        let user = if rustix::process::geteuid().is_root() { "root" } else { "nobody" };
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            .stdout(Stdio::null())
            .status()
            .context("mariadb-install-db; tests/run installs it")?;
        ensure!(installed.success(), "mariadb-install-db: {installed}");
        let (ca_file, key_file) = certificate(dir)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let socket = dir.join("mariadb.sock");
        let mut command = Command::new("mariadbd");
        command
            .arg("--no-defaults")
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", dir.join("mariadb.pid").display()))
            .arg(format!("--port={port}"))
            .arg(format!("--ssl-cert={}", ca_file.display()))
            .arg(format!("--ssl-key={}", key_file.display()))
            .args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M", "--skip-log-bin"]);
        let mut process = Process::start(&mut command, &dir.join("mariadb.log"))?;
        wait_for("MariaDB answers", || {
            ensure!(process.is_running()?, "MariaDB ended: {}", process.output()?);
            Ok(Self::tell(&socket, "SELECT 1").ok())
        })?;
        Self::tell(&socket, sql)?;
        Ok(Self { _process: process, socket, port, ca_file })
    }

    /// Runs statements as its root.
    ///
    /// # Errors
    /// What the server says.
    pub fn run(&self, sql: &str) -> anyhow::Result<String> {
        Self::tell(&self.socket, sql)
    }

    fn tell(socket: &Path, sql: &str) -> anyhow::Result<String> {
        let mut client = Command::new("mariadb")
            .args(["--no-defaults", "--batch", "--skip-column-names", "--default-character-set=utf8mb4", "-uroot"])
            .arg(format!("--socket={}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("mariadb; tests/run installs it")?;
        client.stdin.take().context("no input")?.write_all(sql.as_bytes())?;
        let output = client.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A certificate for `localhost`, which is its own authority, and its key.
fn certificate(dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join("server.pem"), dir.join("server.key"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    Ok((certificate, key))
}

/// Settings of a collector in `dir` that reads both, and its data directory.
///
/// # Errors
/// Where they can't be written.
pub fn settings(dir: &Path, database: &MariaDb) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (data_dir, file, password) = (dir.join("collector"), dir.join("collector.yaml"), dir.join("password"));
    fs::create_dir_all(&data_dir)?;
    fs::write(&password, "secret\n")?;
    let (port, ca_file) = (database.port, database.ca_file.display());
    let password = password.display();
    fs::write(
        &file,
        format!(
            r"
data_dir: {data}
ops: {{listen: 127.0.0.1:0}}
status: {{listen: 127.0.0.1:0}}
mqtt: {{listen: 127.0.0.1:0}}
digitization:
  workflows:
    - name: goobi
      system: goobi
      host: localhost
      port: {port}
      ca_file: {ca_file}
      username: veghe
      password_file: {password}
      projects: [Arhiva CJT]
      unit_pattern: ^(.+)_\d+$
      steps: {{Einspielen der Images: scan, Qualitätskontrolle: qc, Restaurare: prep}}
      every: 1s
    - name: kitodo
      system: kitodo
      host: 127.0.0.1
      port: {port}
      security: none
      username: veghe
      password_file: {password}
      unit_property: cod_unitate
      steps: {{Scannen: scan, Kontrolle: qc, Rückgabe: returned}}
      every: 1s
",
            data = data_dir.display()
        ),
    )?;
    Ok((file, data_dir))
}

/// What the collector says of a unit.
///
/// # Errors
/// Where it says nothing.
pub fn unit(collector: &Collector, code: &str) -> anyhow::Result<Value> {
    let url = collector.listeners.ops.join("/v1/digitization/units/")?.join(code)?;
    Ok(serde_json::from_str(&http::get(&url)?)?)
}

/// A number of the collector's own `/metrics`.
///
/// # Errors
/// Where it is not there.
pub fn metric(collector: &Collector, series: &str) -> anyhow::Result<f64> {
    let text = http::get(&collector.listeners.ops.join("/metrics")?)?;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series}"))?.parse()?)
}
