//! What people do in Goobi and Kitodo is in the ledger, once, whoever is killed.

use std::fmt::Write as _;

use serde_json::Value;
use veghe_tests::process::{Collector, wait_for};
use veghe_tests::workflow::{GOOBI, MariaDb, PRODUCTION_3, metric, settings, unit};

/// Units of the inventory.
const INVENTORY: &str = "cod_unitate;nr_file;latime_mm;lot\nCJT-1;100;31;L-1\nCJT-2;100;31;L-1\nCJT-3;100;31;L-1\n";

fn stage(unit: &Value) -> (&str, &str) {
    (unit["stage"].as_str().unwrap_or_default(), unit["doing"].as_str().unwrap_or_default())
}

#[test]
fn steps_of_goobi_and_kitodo_are_stages_of_units_each_told_once() {
    let dir = tempfile::tempdir().expect("directory");
    let database = MariaDb::start(dir.path(), &format!("{GOOBI}{PRODUCTION_3}")).expect("MariaDB");
    // 2000 finished processes of years past, a template, another project, a unit that nobody knows.
    let mut sql = "USE goobi;
        INSERT INTO prozesse (ProzesseID, Titel, IstTemplate, ProjekteID) VALUES (1, 'CJT-1_17', 0, 1),
            (2, 'Sample_workflow_1', 1, 1), (3, 'CJT-2_18', 0, 2), (4, 'fără număr', 0, 1), (5, 'NOBODY-9_1', 0, 1);
        INSERT INTO history (stringvalue, type, date, processID) VALUES
            ('Einspielen der Images', 7, '2026-05-13 08:00:00', 1), ('Einspielen der Images', 8, '2026-05-13 09:00:00', 1),
            ('Einspielen der Images', 6, '2026-05-13 10:00:00', 1), ('Einspielen der Images', 6, '2026-05-13 10:00:00', 2),
            ('Einspielen der Images', 6, '2026-05-13 10:00:00', 3), ('Einspielen der Images', 6, '2026-05-13 10:00:00', 4),
            ('Einspielen der Images', 6, '2026-05-13 10:00:00', 5), ('Archivierung', 6, '2026-05-13 10:00:00', 1),
            ('Qualitätskontrolle', 8, '2026-05-13 11:00:00', 1);\n"
        .to_owned();
    for process in 100..2100 {
        write!(
            sql,
            "INSERT INTO prozesse (ProzesseID, Titel, ProjekteID) VALUES ({process}, 'OLD-{process}_1', 1);
             INSERT INTO history (stringvalue, type, date, processID) VALUES
                 ('Einspielen der Images', 8, '2020-05-13 09:00:00', {process}),
                 ('Einspielen der Images', 6, '2020-05-13 10:00:00', {process});"
        )
        .expect("a string takes everything");
    }
    sql += "USE kitodo;
        INSERT INTO process (id, title, project_id) VALUES (1, 'whatever', 1);
        INSERT INTO property VALUES (1, 'cod_unitate', 'CJT-3'), (2, 'altceva', 'x');
        INSERT INTO process_x_property VALUES (1, 1), (1, 2);
        INSERT INTO task (id, title, processingStatus, processingTime, processingBegin, processingEnd, process_id) VALUES
            (1, 'Scannen', 3, '2026-05-13 10:00:00', '2026-05-13 09:00:00', '2026-05-13 10:00:00', 1),
            (2, 'Kontrolle', 2, '2026-05-13 11:00:00', '2026-05-13 11:00:00', NULL, 1),
            (3, 'Rückgabe', 0, '2026-05-13 08:00:00', NULL, NULL, 1);\n";
    database.run(&sql).expect("filled");

    let (file, data_dir) = settings(dir.path(), &database).expect("settings");
    let arguments = ["run", "--config", file.to_str().expect("path")];
    let mut collector = Collector::start(&data_dir, &arguments).expect("collector");
    let inventory = dir.path().join("inventar.csv");
    std::fs::write(&inventory, INVENTORY).expect("written");
    collector.admin(&["inventory", "import", inventory.to_str().expect("path"), "--yes"]).expect("imported");

    wait_for("both are read", || {
        let (one, three) = (unit(&collector, "CJT-1")?, unit(&collector, "CJT-3")?);
        Ok((stage(&one) == ("qc", "working") && stage(&three) == ("qc", "working")).then_some(()))
    })
    .expect("begun in both");
    assert_eq!(stage(&unit(&collector, "CJT-2").expect("unit")).0, "", "it is in another project");
    let counted = |collector: &Collector, outcome: &str, name: &str| {
        let series = format!("digitization_workflow_events_total{{outcome=\"{outcome}\",workflow=\"{name}\"}}");
        metric(collector, &series).expect("a number")
    };
    // 3 of CJT-1, 1 of NOBODY-9, and two of each of the old ones, in several pages.
    let all = 4000.0 + 4.0;
    wait_for("everything is read", || Ok((counted(&collector, "accepted", "goobi") >= all).then_some(())))
        .expect("read");
    assert_eq!(counted(&collector, "accepted", "goobi"), all);
    assert!(counted(&collector, "unnamed", "goobi") >= 1.0);
    assert_eq!(counted(&collector, "refused", "goobi"), 0.0);
    let log = collector.process.output().expect("log");
    assert!(log.contains("Restaurare") && log.contains("Archivierung"), "a step that is not there is told: {log}");

    // Quality control sends one back, and finishes the other; a row of the night before comes late.
    database
        .run(
            "USE goobi;
             INSERT INTO history (stringvalue, type, date, processID) VALUES
                 ('Einspielen der Images', 9, '2026-05-13 12:00:00', 1), ('Einspielen der Images', 7, '2026-05-13 12:00:00', 1),
                 ('Einspielen der Images', 8, '2026-05-13 13:00:00', 1);
             USE kitodo;
             INSERT INTO comment (message, type, creationDate, currentTask_id, correctionTask_id, process_id) VALUES
                 ('pagina 7 lipsește, Ana', 'ERROR', '2026-05-13 11:10:00', 2, 1, 1), ('bine', 'INFO', '2026-05-13 11:11:00', 2, 1, 1);
             UPDATE task SET processingTime = '2026-05-13 11:30:00', processingEnd = '2026-05-13 11:30:00' WHERE id = 1;
             UPDATE task SET processingStatus = 3, processingTime = '2026-05-13 12:00:00',
                 processingEnd = '2026-05-13 12:00:00' WHERE id = 2;
             UPDATE task SET processingStatus = 3, processingTime = '2026-05-13 14:00:00',
                 processingBegin = '2026-05-13 13:00:00', processingEnd = '2026-05-13 14:00:00' WHERE id = 3;",
        )
        .expect("changed");
    wait_for("the changes are read", || {
        let (one, three) = (unit(&collector, "CJT-1")?, unit(&collector, "CJT-3")?);
        Ok((stage(&one) == ("scan", "working") && stage(&three).0 == "returned").then_some(()))
    })
    .expect("read");
    let history = unit(&collector, "CJT-3").expect("unit").to_string();
    assert!(!history.contains("Ana") && !history.contains("lipse"), "what people wrote stays there: {history}");

    // Read again from before the mark by another process: nothing is told twice, and what came meanwhile is.
    collector.process.kill().expect("killed");
    database
        .run("USE goobi; INSERT INTO history (stringvalue, type, date, processID) VALUES ('Einspielen der Images', 6, '2026-05-13 14:00:00', 1);")
        .expect("changed");
    let collector = Collector::start(&data_dir, &arguments).expect("collector");
    wait_for("it goes on", || Ok((stage(&unit(&collector, "CJT-1")?) == ("scan", "waiting")).then_some(())))
        .expect("read");
    wait_for("goobi is read again", || Ok((counted(&collector, "repeated", "goobi") > 0.0).then_some(())))
        .expect("read");
    assert_eq!(counted(&collector, "accepted", "goobi"), 1.0, "all but the new one was known");
    wait_for("Kitodo is read too", || Ok((counted(&collector, "repeated", "kitodo") > 0.0).then_some(())))
        .expect("read");
    assert_eq!(counted(&collector, "accepted", "kitodo"), 0.0);

    // A right that is taken away is a metric, and the other system is read on.
    database.run("REVOKE SELECT ON goobi.history FROM veghe@'%'; FLUSH PRIVILEGES;").expect("revoked");
    let up = |name: &str| metric(&collector, &format!("digitization_workflow_up{{workflow=\"{name}\"}}"));
    wait_for("goobi is down", || Ok((up("goobi")? == 0.0).then_some(()))).expect("told");
    assert_eq!(up("kitodo").expect("up"), 1.0);
    let log = collector.process.output().expect("log");
    assert!(log.contains("cannot read table history"), "{log}");
    assert!(!log.contains("secret"), "the password is in the log");
}
