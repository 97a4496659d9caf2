//! Whose name an event may bear: an agent's events bear the agent's, and nobody else's do.
//!
//! What it deliberately does not do: find out who the sender is; `ingest` knows the certificate, `web` the token.

use super::event::{Data, Event, Refused};

/// What the sources of events begin with that agents and the collector make.
pub const RESERVED: &str = "//veghe/";

/// Who sends events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender<'a> {
    /// An agent, by the id in its certificate.
    Agent(&'a str),
    /// Software with a token.
    Token,
}

impl Sender<'_> {
    /// Refuses the events, and the corrections of events, that are not the sender's to make.
    pub fn keep_own(self, events: Vec<Result<Event, Refused>>) -> Vec<Result<Event, Refused>> {
        let own = match self {
            Self::Agent(agent) => format!("{RESERVED}agent/{agent}"),
            Self::Token => String::new(),
        };
        let judge = |source: &str| match self {
            Self::Agent(_) => {
                let below = source.strip_prefix(&own);
                let is_own = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                (!is_own).then(|| format!("is not `{own}` or below it; an agent tells only of itself"))
            }
            Self::Token => source
                .starts_with(RESERVED)
                .then(|| format!("begins with `{RESERVED}`, which is for agents; name your system")),
        };
        let checked = events.into_iter().map(|event| {
            let event = event?;
            let problem = judge(&event.source).map(|problem| ("source", problem));
            let problem = problem.or_else(|| match (&event.data, self) {
                (Data::Correction { source, .. }, Self::Agent(_)) => judge(source).map(|p| ("data.source", p)),
                _ => None,
            });
            match problem {
                Some((field, problem)) => {
                    Err(Refused { id: Some(event.id), problems: vec![(field.to_owned(), problem)] })
                }
                None => Ok(event),
            }
        });
        checked.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digitization::event::parse;

    fn is_kept(sender: Sender<'_>, source: &str, corrects: Option<&str>) -> bool {
        let (kind, data) = match corrects {
            Some(wrong) => ("correction", json!({"source": wrong, "id": "1", "reason": "wrong folder"})),
            None => ("batch.closed", json!({"batch": "L-1"})),
        };
        let event = json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": source, "id": "1",
            "time": "2026-05-14T08:12:31Z", "data": data});
        let events = parse(event.to_string().as_bytes()).expect("JSON");
        assert!(events[0].is_ok(), "{events:?}");
        sender.keep_own(events)[0].is_ok()
    }

    #[test]
    fn an_agent_tells_of_itself_and_nobody_else_does() {
        let agent = Sender::Agent("scan-1");
        assert!(is_kept(agent, "//veghe/agent/scan-1", None));
        assert!(is_kept(agent, "//veghe/agent/scan-1/station/S02", None));
        for foreign in ["//veghe/agent/scan-10", "//veghe/agent/scan-2", "//cjt/station/S02", "//veghe/agent"] {
            assert!(!is_kept(agent, foreign, None), "{foreign}");
        }
        assert!(is_kept(Sender::Token, "//cjt/station/S02", None));
        assert!(!is_kept(Sender::Token, "//veghe/agent/scan-1", None));
    }

    #[test]
    fn an_agent_takes_back_only_what_it_said_itself() {
        let own = "//veghe/agent/scan-1";
        assert!(is_kept(Sender::Agent("scan-1"), own, Some("//veghe/agent/scan-1/station/S02")));
        assert!(!is_kept(Sender::Agent("scan-1"), own, Some("//veghe/agent/scan-2")));
        assert!(is_kept(Sender::Token, "//cjt", Some(own)), "people mend what an agent got wrong");
    }
}
