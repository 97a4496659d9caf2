//! The words of reports in Romanian and English.
//!
//! Every word is there in both, by construction.

use serde::{Deserialize, Serialize};

use crate::digitization::calendar::Day;
use crate::digitization::stage::Stage;

use super::period::{Length, Period};

/// The language of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    /// Romanian.
    #[serde(rename = "ro")]
    Romanian,
    /// English.
    #[serde(rename = "en")]
    English,
}

/// A word in Romanian and in English.
pub type Word = [&'static str; 2];

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $ro:literal, $en:literal;)*) => {
        $(#[doc = $en] pub const $name: Word = [$ro, $en];)*
        #[cfg(test)]
        pub(super) const ALL: &[Word] = &[$($name),*];
    };
}

words! {
    WEEKLY: "Raport săptămânal", "Weekly report";
    MONTHLY: "Raport lunar", "Monthly report";
    DRAFT: "ciornă, nu este încă înghețat", "draft, not frozen yet";
    SUMMARY: "Rezumat", "Summary";
    DAYS: "Zile", "Days";
    PROGRESS: "Progres", "Progress";
    STAGES: "Etape", "Stages";
    STATIONS: "Stații", "Stations";
    REWORK: "Refaceri", "Rework";
    BILLING: "Facturare", "Billing";
    CORRECTIONS: "Corecții", "Corrections";
    REPORT: "Raport", "Report";
    PERIOD: "Perioada", "Period";
    FROM: "De la", "From";
    TO: "Până la", "To";
    ISSUED: "Emis la", "Issued";
    NUMBER: "Numărul", "Number";
    DIGEST: "Amprenta SHA-256", "SHA-256 digest";
    PREVIOUS: "Amprenta raportului anterior", "Digest of the report before";
    BASELINE: "Versiunea inventarului", "Version of the inventory";
    WORKING_DAYS: "Zile lucrătoare", "Working days";
    MEASURE: "Măsura", "Measure";
    IN_PERIOD: "În perioadă", "In the period";
    SO_FAR: "Până la sfârșitul ei", "By its end";
    SCOPE: "În inventar", "In the inventory";
    SHARE: "Pondere", "Share";
    METRES_DONE: "Metri liniari acceptați și înapoiați", "Linear metres accepted and returned";
    UNITS: "Unități", "Units";
    UNITS_DONE: "Unități acceptate și înapoiate", "Units accepted and returned";
    SHEETS_DONE: "File acceptate și înapoiate", "Sheets accepted and returned";
    IMAGES_DONE: "Imagini ale acestora", "Images of them";
    UNITS_SCANNED: "Unități scanate", "Units scanned";
    UNITS_ACCEPTED: "Unități acceptate", "Units accepted";
    IMAGES_ACCEPTED: "Imagini acceptate", "Images accepted";
    NEW_IMAGES: "Imagini noi", "New images";
    AGAIN: "Refăcute", "Scanned again";
    NET_IMAGES: "Imagini în plus", "Images more than before";
    IMAGES: "Imagini", "Images";
    FIRST_PASS: "Acceptate la prima verificare", "Accepted at the first look";
    OF: "din", "of";
    FORECAST: "Prognoza de finalizare", "Forecast finish";
    PRELIMINARY: "preliminară", "preliminary";
    PLAN: "Termenul din plan", "Planned finish";
    PLANNED: "Metri planificați până la sfârșitul perioadei", "Metres planned by the end of the period";
    AHEAD: "Zile lucrătoare înaintea planului", "Working days ahead of the plan";
    SPI: "Zile câștigate pe zi trecută, SPI(t)", "Days earned for each that is gone, SPI(t)";
    DAY: "Ziua", "Day";
    IS_WORKING: "Lucrătoare", "Working day";
    YES: "da", "yes";
    NO: "nu", "no";
    METRES: "Metri liniari", "Linear metres";
    METRES_SO_FAR: "Metri liniari în total", "Linear metres so far";
    WEEK_ENDING: "Sfârșitul săptămânii", "End of week";
    STAGE: "Etapa", "Stage";
    WAITING: "Așteaptă", "Waiting";
    WORKING: "În lucru", "In work";
    HELD: "Blocate", "Held";
    STATION: "Stația", "Station";
    SHIFT: "Schimbul", "Shift";
    JAM: "Minute de blocaj", "Minutes of jams";
    DOWN: "Minute de defecțiune", "Minutes of faults";
    MAINTENANCE: "Minute de întreținere", "Minutes of maintenance";
    REASON: "Motivul", "Reason";
    REJECTIONS: "Respingeri", "Rejections";
    OPEN: "Încă deschise", "Still open";
    LOST_DAYS: "Zile lucrătoare pierdute", "Working days lost";
    INVOICE: "Factura", "Invoice";
    BILLED: "Imagini facturate", "Images billed";
    DIFFERENCE: "Facturate minus acceptate", "Billed less accepted";
    BOOKED: "Înregistrată la", "Booked on";
    HAPPENED: "Petrecută la", "Happened on";
    KIND: "Felul", "Kind";
    EVENTS: "Evenimente", "Events";
    NO_CORRECTIONS: "Nimic nu a venit după înghețarea zilelor.", "Nothing came after its day was frozen.";
    NO_INVOICES: "Nicio factură în perioadă.", "No invoice in the period.";
    NO_REWORK: "Nicio respingere.", "No rejection.";
    CHART_IMAGES: "Imagini pe zi", "Images by day";
    CHART_METRES: "Metri liniari acceptați și înapoiați", "Linear metres accepted and returned";
    CHART_STAGES: "Unități pe etape", "Units by stage";
    CHART_STATIONS: "Imagini pe stații", "Images by station";
    CHART_REWORK: "Zile lucrătoare pierdute, pe motive", "Working days lost by reason";
    CHART_BILLING: "Facturat și acceptat", "Billed and accepted";
    WHAT_LATE: "Evenimente sosite după ce ziua lor fusese înghețată; sunt numărate în ziua sosirii.", "Events that came after their day was frozen; they count on the day of their arrival.";
}

/// Reasons of rejections that many have, as events name them (`wire/PROTOCOL.md`), and in words.
pub const REASONS: [(&str, Word); 12] = [
    ("skew", ["pagină înclinată", "skew"]),
    ("blur", ["imagine neclară", "blur"]),
    ("cropped", ["pagină tăiată", "cropped page"]),
    ("missing_page", ["pagină lipsă", "missing page"]),
    ("repeated_page", ["pagină repetată", "repeated page"]),
    ("wrong_order", ["ordine greșită", "wrong order"]),
    ("orientation", ["orientare greșită", "wrong orientation"]),
    ("exposure", ["expunere greșită", "wrong exposure"]),
    ("colour", ["culori greșite", "wrong colours"]),
    ("resolution", ["rezoluție greșită", "wrong resolution"]),
    ("fold", ["foaie îndoită", "folded sheet"]),
    ("dirt", ["praf sau murdărie", "dust or dirt"]),
];

impl Language {
    /// Every language.
    pub const ALL: [Self; 2] = [Self::Romanian, Self::English];

    /// Its tag.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Romanian => "ro",
            Self::English => "en",
        }
    }

    /// A word in it.
    pub const fn of(self, word: Word) -> &'static str {
        match self {
            Self::Romanian => word[0],
            Self::English => word[1],
        }
    }

    /// The name of a stage.
    pub fn stage(self, stage: Stage) -> &'static str {
        self.of(match stage {
            Stage::Inventory => ["Inventariere", "Inventory"],
            Stage::Prep => ["Pregătire", "Preparation"],
            Stage::Scan => ["Scanare", "Scanning"],
            Stage::Post => ["Prelucrare", "Image processing"],
            Stage::Qc => ["Controlul calității", "Quality control"],
            Stage::Ocr => ["Recunoașterea textului", "Text recognition"],
            Stage::Index => ["Indexare", "Indexing"],
            Stage::Deliver => ["Livrare", "Delivery"],
            Stage::Reassemble => ["Reasamblare", "Reassembly"],
            Stage::Returned => ["Înapoi la raft", "Returned"],
        })
    }

    /// Why something was rejected: in words where it is one of [`REASONS`], otherwise as whoever told it calls it.
    pub fn reason(self, reason: &str) -> &str {
        REASONS.iter().find(|(name, _)| *name == reason).map_or(reason, |(_, word)| self.of(*word))
    }

    /// `24 decembrie 2026`.
    pub fn day(self, day: Day) -> String {
        let date = day.date();
        format!("{} {} {}", date.day(), self.month(date.month()), date.year())
    }

    fn month(self, month: i8) -> &'static str {
        const NAMES: [Word; 12] = [
            ["ianuarie", "January"],
            ["februarie", "February"],
            ["martie", "March"],
            ["aprilie", "April"],
            ["mai", "May"],
            ["iunie", "June"],
            ["iulie", "July"],
            ["august", "August"],
            ["septembrie", "September"],
            ["octombrie", "October"],
            ["noiembrie", "November"],
            ["decembrie", "December"],
        ];
        self.of(NAMES[usize::try_from(month - 1).unwrap_or(0).min(11)])
    }

    /// `Raport lunar, mai 2026`; `Weekly report, 4 May 2026 to 10 May 2026`.
    pub fn title(self, period: Period) -> String {
        match period.length() {
            Length::Week => {
                format!("{} {period}, {} – {}", self.of(WEEKLY), self.day(period.first()), self.day(period.last()))
            }
            Length::Month => {
                let date = period.first().date();
                format!("{}, {} {}", self.of(MONTHLY), self.month(date.month()), date.year())
            }
        }
    }

    /// A number with so many digits after the comma or point, without groups.
    pub fn decimal(self, number: f64, digits: usize) -> String {
        let text = format!("{number:.digits$}");
        if self == Self::Romanian { text.replace('.', ",") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_differs_by_language_and_has_the_right_diacritics() {
        for [ro, en] in ALL.iter().chain(REASONS.iter().map(|(_, word)| word)) {
            assert!(!ro.is_empty() && !en.is_empty());
            assert!(!ro.contains(['\u{15f}', '\u{163}', '\u{15e}', '\u{162}']), "{ro}");
            assert!(en.is_ascii(), "{en}");
        }
        let stages = Stage::ALL.map(|stage| (Language::Romanian.stage(stage), Language::English.stage(stage)));
        assert!(stages.iter().all(|(ro, en)| ro != en));
    }

    #[test]
    fn reasons_that_have_words_are_those_of_the_protocol() {
        let protocol = include_str!("../../../../wire/PROTOCOL.md");
        let (_, told) = protocol.split_once("in reports in both languages: ").expect("what it tells of reasons");
        let (told, _) = told.split_once(".\n").expect("the end of the sentence");
        let told: Vec<&str> = told.split(',').map(|name| name.trim().trim_matches('`')).collect();
        assert_eq!(told, REASONS.map(|(name, _)| name));
        let [ro, en] = Language::ALL.map(|language| (language.reason("missing_page"), language.reason("-other")));
        assert_eq!((ro, en), (("pagină lipsă", "-other"), ("missing page", "-other")));
    }

    #[test]
    fn titles_name_the_period() {
        let title = |language: Language, period: &str| language.title(period.parse().expect(period));
        assert_eq!(title(Language::Romanian, "2026-05"), "Raport lunar, mai 2026");
        assert_eq!(title(Language::English, "2026-W19"), "Weekly report 2026-W19, 4 May 2026 – 10 May 2026");
    }
}
