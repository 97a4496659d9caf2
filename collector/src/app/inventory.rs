//! The commands `inventory import`, `export` and `show`: files and words here, the inventory in the running collector.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;

use crate::admin::{self, Request, Response};
use crate::cli::InventoryCommand;
use crate::digitization::inventory::{Diff, Mapping, Problem, read_file};
use crate::digitization::office::{Answer, Question};

/// Lines of each kind that are shown; the rest is counted.
const MAX_LINES: usize = 50;

/// Does what the command says and returns what to print.
pub(super) fn run(command: InventoryCommand) -> anyhow::Result<String> {
    match command {
        InventoryCommand::Import { file, map, yes, running } => {
            let mapping = Mapping::parse(map.iter().map(String::as_str))?;
            let reading = read_file(&file, &mapping)?;
            if reading.problem_count > 0 {
                let problems = listed(&reading.problems, reading.problem_count);
                bail!("{} can't be imported, nothing was changed:\n{problems}", file.display());
            }
            let mut text = String::new();
            if !reading.warnings.is_empty() {
                writeln!(text, "Odd, and imported as it is:\n{}", listed(&reading.warnings, reading.warnings.len()))?;
            }
            let units = reading.units;
            let Answer::Proposed { version, diff } =
                ask(&running.data_dir, Question::Propose { units: units.clone() })?
            else {
                bail!("the collector answered something else");
            };
            text += &described(&diff, version)?;
            if diff.is_empty() {
                return Ok(text + "Nothing to change.");
            }
            if !yes && !confirmed(&text)? {
                return Ok(text + "Nothing was changed. With --yes this becomes the inventory.");
            }
            let note = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let question = Question::Adopt { units, compared_with: version, note };
            let Answer::Adopted { version } = ask(&running.data_dir, question)? else {
                bail!("the collector answered something else");
            };
            Ok(text + &format!("This is the inventory now, version {version}."))
        }
        InventoryCommand::Export { running } => match ask(&running.data_dir, Question::Export)? {
            Answer::Exported { csv } => Ok(csv.trim_end().to_owned()),
            _ => bail!("the collector answered something else"),
        },
        InventoryCommand::Show { running } => match ask(&running.data_dir, Question::Show)? {
            Answer::Shown { versions, units, mm, leaves } => {
                let Some(newest) = versions.first() else {
                    return Ok("No inventory yet. `veghe-collector inventory import FILE` makes one.".to_owned());
                };
                let mut text =
                    format!("Version {}: {units} units, {} of shelf, {leaves} leaves\n", newest.version, metres(mm));
                for version in &versions {
                    let at = jiff::Timestamp::from_millisecond(version.adopted_ms).unwrap_or_default();
                    let at = at.to_zoned_datetime(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC");
                    writeln!(text, "  {:>4}  {at}  {}", version.version, version.note)?;
                }
                Ok(text.trim_end().to_owned())
            }
            _ => bail!("the collector answered something else"),
        },
    }
}

fn ask(data_dir: &Path, question: Question) -> anyhow::Result<Answer> {
    match admin::ask(data_dir, &Request::Inventory { question })? {
        Response::Inventory { answer } => Ok(*answer),
        _ => bail!("the collector answered something else"),
    }
}

/// Asks the person at the terminal; no where there is none.
fn confirmed(text: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut out = std::io::stdout();
    write!(out, "{text}Make this the inventory? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "d" | "D" | "da"))
}

fn listed(problems: &[Problem], count: usize) -> String {
    let mut lines: Vec<String> = problems.iter().take(MAX_LINES).map(|problem| format!("  {problem}")).collect();
    if count > lines.len() {
        lines.push(format!("  and {} more", count - lines.len()));
    }
    lines.join("\n")
}

fn metres(mm: u64) -> String {
    format!("{}.{:03} m", mm / 1000, mm % 1000)
}

fn described(diff: &Diff, version: u32) -> anyhow::Result<String> {
    let mut text = String::new();
    let ((old_units, old_mm, old_leaves), (units, mm, leaves)) = (diff.old_totals, diff.new_totals);
    if version == 0 {
        writeln!(text, "The first inventory: {units} units, {} of shelf, {leaves} leaves.", metres(mm))?;
        return Ok(text);
    }
    writeln!(text, "Against version {version}:")?;
    writeln!(text, "  units   {old_units} -> {units}")?;
    writeln!(text, "  shelf   {} -> {}", metres(old_mm), metres(mm))?;
    writeln!(text, "  leaves  {old_leaves} -> {leaves}")?;
    let (added, removed) = (diff.added.len(), diff.removed.len());
    let (changed, unchanged) = (diff.changed_units, diff.unchanged_units);
    writeln!(text, "  {added} added, {removed} removed, {changed} changed, {unchanged} as before")?;
    for (sign, units) in [('+', &diff.added), ('-', &diff.removed)] {
        for unit in units.iter().take(MAX_LINES) {
            writeln!(text, "  {sign} {unit}")?;
        }
        if units.len() > MAX_LINES {
            writeln!(text, "  {sign} and {} more", units.len() - MAX_LINES)?;
        }
    }
    for change in diff.changes.iter().take(MAX_LINES) {
        writeln!(text, "  ~ {} {}: `{}` -> `{}`", change.unit, change.column, change.old, change.new)?;
    }
    if diff.changes.len() > MAX_LINES {
        writeln!(text, "  ~ and {} more", diff.changes.len() - MAX_LINES)?;
    }
    Ok(text)
}
