//! Reports of the digitization: made and mailed by schedule, and the commands `digitization report`, `reports`, `verify`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::admin::{self, Request, Response};
use crate::alerting::mail::{Attachment, send_files};
use crate::alerting::{Channel, MailSettings, Receiver};
use crate::cli::DigitizationCommand;
use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::pack::words as w;
use crate::digitization::pack::{Answer, Form, Issued, Language, Paper, Question, Schedule};
use crate::digitization::privacy::office::{Look, MAX_NAMES};

/// Makes and mails reports as `schedule` says until the scheduler is dropped.
///
/// # Errors
/// Where the scheduler can't be started.
pub(super) async fn start(
    project: Digitization,
    schedule: Schedule,
    receivers: &[Receiver],
) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("cannot make the scheduler of reports")?;
    let mail: Vec<MailSettings> = receivers
        .iter()
        .filter(|receiver| schedule.mail.contains(&receiver.name))
        .filter_map(|receiver| match &receiver.channel {
            Channel::Mail(settings) => Some(settings.clone()),
            Channel::Webhook(_) => None,
        })
        .collect();
    // Each hour, at the minute of the schedule in the office's own time: what was missed, or could not be mailed, is made
    // up for within the hour, and no change of the clocks skips a report.
    let cron = format!("0 {} * * * *", schedule.at % 60);
    let zone = project.settings().time_zone.iana_name().and_then(|name| name.parse().ok()).unwrap_or(chrono_tz::UTC);
    let job = Job::new_async_tz(cron.as_str(), zone, move |_id, _scheduler| {
        let (project, schedule, mail) = (project.clone(), schedule.clone(), mail.clone());
        Box::pin(async move { round(project, schedule, mail).await })
    });
    scheduler.add(job.context("cannot schedule reports")?).await.context("cannot schedule reports")?;
    scheduler.start().await.context("cannot start the scheduler of reports")?;
    Ok(scheduler)
}

/// Makes what is due and mails what was not mailed yet.
async fn round(project: Digitization, schedule: Schedule, mail: Vec<MailSettings>) {
    let made = tokio::task::spawn_blocking({
        let (project, schedule) = (project.clone(), schedule.clone());
        move || {
            let now = clock::now();
            let made = project.issue_due(&schedule, now);
            (made, project.unmailed(now))
        }
    });
    let (made, unmailed) = match made.await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "making reports panicked");
            return;
        }
    };
    match made {
        Ok(made) => {
            for report in made {
                tracing::info!(period = %report.figures.period, number = report.number, "report was made");
            }
        }
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot make a report"),
    }
    if mail.is_empty() {
        return;
    }
    match unmailed {
        Ok(reports) => {
            for report in reports {
                if let Err(error) = post(&project, report, &schedule.languages, &mail).await {
                    tracing::warn!(
                        error = &*error as &dyn std::error::Error,
                        "cannot mail a report; it goes again in an hour"
                    );
                }
            }
        }
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot read reports"),
    }
}

/// Mails a report to every receiver. Where one fails the others get it again in an hour: twice is better than never.
async fn post(
    project: &Digitization,
    report: Issued,
    languages: &[Language],
    mail: &[MailSettings],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let period = report.figures.period;
    let paper = Paper::Issued(Box::new(report));
    let (mut text, mut files) = (String::new(), Vec::new());
    for language in languages {
        text += &letter(&paper, *language);
        for form in [Form::Xlsx, Form::Csv] {
            let (name, media_type) = (paper.file_name(form, *language), form.media_type());
            files.push(Attachment { name, media_type, bytes: paper.write(form, *language)? });
        }
    }
    let subject =
        format!("{}: {}", paper.figures().project, languages.first().map_or(Language::Romanian, |l| *l).title(period));
    for settings in mail {
        let status = send_files(settings, &subject, text.clone(), files.clone()).await?;
        tracing::info!(%period, status, "report was mailed");
    }
    let project = project.clone();
    tokio::task::spawn_blocking(move || project.note_mailed(period, clock::now())).await??;
    Ok(())
}

/// What the mail says in words.
fn letter(paper: &Paper, language: Language) -> String {
    let f = paper.figures();
    let t = |word: w::Word| language.of(word);
    let metres = |mm: i64| language.decimal(mm as f64 / 1000.0, 1);
    let mut lines = vec![
        format!("{}: {}", f.project, language.title(f.period)),
        String::new(),
        format!("{}: {} m ({} {} m)", t(w::METRES_DONE), metres(f.done.so_far.mm), t(w::OF), metres(f.scope.mm)),
        format!("{}: {} m", t(w::IN_PERIOD), metres(f.done.in_period.mm)),
        format!("{}: {} + {} {}", t(w::NEW_IMAGES), f.captured, f.rescanned, t(w::AGAIN).to_lowercase()),
        format!("{}: {} / {}", t(w::BILLED), f.billing.billed, f.billing.accepted),
    ];
    if let Some(forecast) = &f.forecast {
        lines.push(format!("{} P85: {}", t(w::FORECAST), language.day(forecast.p85)));
    }
    if let Some(issued) = paper.issued() {
        lines.push(format!("{}: {}", t(w::DIGEST), issued.digest));
    }
    lines.join("\n") + "\n\n"
}

/// Does what the command says and returns what to print.
pub(super) fn run(command: DigitizationCommand) -> anyhow::Result<String> {
    match command {
        DigitizationCommand::Report { period, format, language, output, freeze, running } => {
            let question = Question::Write { period, form: format, language, issue: freeze };
            let Answer::Written { name, digest, base64 } = ask(&running.data_dir, question)? else {
                bail!("the collector answered something else");
            };
            let path = output.unwrap_or_else(|| PathBuf::from(&name));
            let bytes = STANDARD.decode(base64).context("the collector's answer is damaged")?;
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(match digest {
                Some(digest) => format!("{}: frozen, digest {digest}", path.display()),
                None => format!("{}: a draft; --freeze makes the report once its period is over", path.display()),
            })
        }
        DigitizationCommand::Reports { running } => {
            let Answer::Listed { reports } = ask(&running.data_dir, Question::List)? else {
                bail!("the collector answered something else");
            };
            if reports.is_empty() {
                return Ok(
                    "No report yet. `veghe-collector digitization report 2026-05 --freeze` makes one.".to_owned()
                );
            }
            let mut text = format!("{:>6}  {:<8}  {:<20}  {:<6}  DIGEST\n", "NUMBER", "PERIOD", "MADE", "MAILED");
            for report in reports {
                let at = jiff::Timestamp::from_millisecond(report.issued_ms).unwrap_or_default();
                let at = at.to_zoned_datetime(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string();
                let mailed = if report.mailed_ms.is_some() { "yes" } else { "no" };
                writeln!(
                    text,
                    "{:>6}  {:<8}  {at:<20}  {mailed:<6}  {}",
                    report.number,
                    report.period.to_string(),
                    report.digest
                )?;
            }
            Ok(text.trim_end().to_owned())
        }
        DigitizationCommand::Reveal { unit, names, by, why, running } => {
            reveal(&running.data_dir, unit, &names, by, why)
        }
        DigitizationCommand::Verify { running } => {
            let Answer::Verified { verified } = ask(&running.data_dir, Question::Verify)? else {
                bail!("the collector answered something else");
            };
            if !verified.problems.is_empty() {
                bail!("the chain of {} reports does not hold:\n  {}", verified.reports, verified.problems.join("\n  "));
            }
            Ok(match verified.reports {
                0 => "No report yet.".to_owned(),
                count => format!("{count} reports are as they were made; the last has digest {}", verified.last),
            })
        }
    }
}

/// Looks behind the pseudonyms of a unit's events.
fn reveal(data_dir: &Path, unit: String, names: &Path, by: String, why: String) -> anyhow::Result<String> {
    let text = fs::read_to_string(names).with_context(|| format!("cannot read {}", names.display()))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|name| !name.is_empty()).take(MAX_NAMES + 1).map(str::to_owned).collect();
    let look = Look { unit, names, by, why };
    let Response::Found { found } = admin::ask(data_dir, &Request::LookBehind { look })? else {
        bail!("the collector answered something else");
    };
    let mut text = String::new();
    for deed in &found.deeds {
        let at = jiff::Timestamp::from_millisecond(deed.time_ms).unwrap_or_default();
        let at = at.to_zoned_datetime(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string();
        let name = deed.name.as_deref().unwrap_or("none of these names");
        writeln!(text, "{at}  event {:<9}  {:<16}  {name}", deed.seq, deed.kind)?;
    }
    let record = &found.record;
    write!(
        text,
        "{} events with a pseudonym, {} of them by somebody of the file; the look is number {} on record",
        record.events, record.found, record.number
    )?;
    Ok(text)
}

fn ask(data_dir: &Path, question: Question) -> anyhow::Result<Answer> {
    match admin::ask(data_dir, &Request::Reports { question })? {
        Response::Reports { answer } => Ok(*answer),
        _ => bail!("the collector answered something else"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use veghe_model::Timestamp;

    use super::*;
    use crate::alerting::Security;
    use crate::digitization::event::parse;
    use crate::digitization::{Day, Settings};

    /// Takes one mail and returns it.
    async fn take_mail(listener: TcpListener) -> String {
        let (stream, _) = listener.accept().await.expect("a client");
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let (mut mail, mut is_body) = (String::new(), false);
        writer.write_all(b"220 test ESMTP\r\n").await.expect("greeted");
        while let Ok(Some(line)) = lines.next_line().await {
            let answer: &[u8] = match (is_body, line.as_str()) {
                (true, ".") => {
                    is_body = false;
                    b"250 kept\r\n"
                }
                (true, _) => {
                    mail += &line;
                    mail.push('\n');
                    continue;
                }
                (false, "DATA") => {
                    is_body = true;
                    b"354 go on\r\n"
                }
                (false, "QUIT") => break,
                (false, _) => b"250 ok\r\n",
            };
            writer.write_all(answer).await.expect("answered");
        }
        mail
    }

    #[tokio::test]
    async fn a_due_report_is_made_mailed_with_its_files_and_not_mailed_again() {
        let project = Digitization::in_memory(Settings::default());
        let now = clock::now();
        let last_week = Day(Day::at(now, &project.settings().time_zone).monday().0 - 4);
        let event = |id: &str, kind: &str, data: serde_json::Value| {
            json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt", "id": id,
                "time": format!("{last_week}T09:00:00Z"), "data": data})
        };
        let events = json!([
            event("1", "inventory.declared", json!({"unit": "U-1", "leaves": 100, "width_mm": 31})),
            event("2", "image.captured", json!({"unit": "U-1", "frames": 150, "station": "S01"})),
        ]);
        project.submit(parse(events.to_string().as_bytes()).expect("events"), Timestamp(now.0)).expect("kept");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut settings = MailSettings::new("127.0.0.1", "Veghe <veghe@x.ro>", vec!["arhiva@x.ro".to_owned()]);
        settings.port = listener.local_addr().expect("address").port();
        settings.security = Security::PlainLoopback;
        let schedule = Schedule { monthly: false, at: 0, languages: Language::ALL.to_vec(), ..Schedule::default() };
        let sent = round(project.clone(), schedule.clone(), vec![settings.clone()]);
        let (mail, ()) = tokio::join!(take_mail(listener), sent);
        let period = project.issued(9).expect("read")[0].period;
        for part in [
            "To: arhiva@x.ro".to_owned(),
            format!("filename=\"veghe-{period}-ro.xlsx\""),
            format!("filename=\"veghe-{period}-ro.csv\""),
            format!("filename=\"veghe-{period}-en.xlsx\""),
            "Content-Type: application/vnd.openxmlformats-officedocument.spreadsheetml.sheet".to_owned(),
        ] {
            assert!(mail.contains(&part), "{part} is not in {mail}");
        }
        assert_eq!(project.unmailed(now).expect("read"), []);
        // Nobody listens any more: a second mail would be told by its failure, and the report is there once.
        round(project.clone(), schedule, vec![settings]).await;
        assert_eq!(project.issued(9).expect("read").len(), 1);
    }

    #[tokio::test]
    async fn a_report_that_could_not_be_mailed_waits() {
        let project = Digitization::in_memory(Settings::default());
        let now = clock::now();
        let last_week = Day(Day::at(now, &project.settings().time_zone).monday().0 - 4);
        let event = json!({"specversion": "1.0", "type": "ro.cjt.digi.v1.inventory.declared", "source": "//cjt", "id": "1",
            "time": format!("{last_week}T09:00:00Z"), "data": {"unit": "U-1", "leaves": 100, "width_mm": 31}});
        let stage = json!({"specversion": "1.0", "type": "ro.cjt.digi.v1.unit.stage", "source": "//cjt", "id": "2",
            "time": format!("{last_week}T09:00:00Z"), "data": {"unit": "U-1", "stage": "prep", "change": "enter"}});
        let events = json!([event, stage]).to_string();
        project.submit(parse(events.as_bytes()).expect("events"), now).expect("kept");
        let port = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address").port();
        let mut settings = MailSettings::new("127.0.0.1", "Veghe <veghe@x.ro>", vec!["arhiva@x.ro".to_owned()]);
        (settings.port, settings.security) = (port, Security::PlainLoopback);
        let schedule = Schedule { monthly: false, at: 0, ..Schedule::default() };
        round(project.clone(), schedule, vec![settings]).await;
        assert_eq!(project.unmailed(now).expect("read").len(), 1);
    }
}
