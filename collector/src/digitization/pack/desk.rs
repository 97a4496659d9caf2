//! What an administrator asks about reports, over the socket of the running collector.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::{Form, Header, Language, Paper, Period, Verified};
use crate::digitization::Digitization;

/// Reports of one answer.
const MAX_LISTED: usize = 1000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// The report of a period as a file.
    Write {
        /// Which period.
        period: Period,
        /// How.
        form: Form,
        /// In which language.
        language: Language,
        /// Whether it is frozen first.
        issue: bool,
    },
    /// Which reports there are.
    List,
    /// Whether the chain holds.
    Verify,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Write`].
    Written {
        /// Its name.
        name: String,
        /// Its digest, if it is frozen.
        digest: Option<String>,
        /// Its bytes, in Base64.
        base64: String,
    },
    /// To [`Question::List`].
    Listed {
        /// The newest first.
        reports: Vec<Header>,
    },
    /// To [`Question::Verify`].
    Verified {
        /// What was found.
        verified: Verified,
    },
}

/// Answers. Blocks.
///
/// # Errors
/// What went wrong.
pub fn answer(
    project: &Digitization,
    question: &Question,
    now: Timestamp,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match *question {
        Question::Write { period, form, language, issue } => {
            let paper =
                if issue { Paper::Issued(Box::new(project.issue(period, now)?)) } else { project.paper(period)? };
            Answer::Written {
                name: paper.file_name(form, language),
                digest: paper.issued().map(|issued| issued.digest.clone()),
                base64: STANDARD.encode(paper.write(form, language)?),
            }
        }
        Question::List => Answer::Listed { reports: project.issued(MAX_LISTED)? },
        Question::Verify => Answer::Verified { verified: project.verify_reports()? },
    })
}
