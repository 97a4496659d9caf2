//! Serves the public status pages with a component in every state, for a look at them and for the browser check:
//! `cargo run -p veghe-collector --example status_pages -- 127.0.0.1:8081`, then
//! `node tests/browser/status.mjs http://127.0.0.1:8081 DIR`.

use std::time::Duration;

use veghe_collector::clock;
use veghe_collector::status::{History, Localized, Observed, Settings, State, StatusHandle, snapshot};
use veghe_collector::web::public;
use veghe_model::Timestamp;

fn text(ro: &str, en: &str) -> Localized {
    Localized { ro: ro.to_owned(), en: en.to_owned() }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let now = clock::now();
    let settings = Settings { name: text("Arhiva Județului", "County Archive"), ..Settings::default() };
    let mut history = History::new(Duration::from_secs(75));
    let components = [
        ("search", text("Căutare în arhivă", "Archive search"), State::Operational),
        ("viewer", text("Vizualizare documente", "Document viewer"), State::Degraded),
        ("scan", text("Ateliere de digitizare", "Digitization workshops"), State::PartialOutage),
        ("mail", text("Poștă electronică", "E-mail"), State::MajorOutage),
        ("backup", text("Copii de siguranță", "Backups"), State::Maintenance),
        ("nas", Localized::same("archive-nas-1"), State::Unknown),
    ];
    let mut observed = Vec::new();
    for (i, (id, name, state)) in components.into_iter().enumerate() {
        for minute in 0..=1440_i64 {
            let seen = match minute {
                0..=200 => State::Unknown,
                600..=660 if state != State::Operational => state,
                1350.. => state,
                _ => State::Operational,
            };
            history.observe(id, Timestamp(now.0 - (1440 - minute) * 60_000), seen);
        }
        let description =
            (i == 0).then(|| text("Catalogul public și inventarele", "The public catalogue and inventories"));
        let group = (i > 3).then(|| text("Infrastructură", "Infrastructure"));
        observed.push(Observed { id: id.to_owned(), name, description, group, state });
    }
    let handle = StatusHandle::new(snapshot(&settings, 1, now, false, observed, &history));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    axum::serve(listener, public::router(handle)).await?;
    Ok(())
}
