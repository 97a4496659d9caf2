//! How much of the machine the agent takes: it makes room while the machine is busy, and stays below ceilings of its own.
//!
//! Of the sensors, those that alerts stand on ([`ESSENTIAL`]) always keep their interval. The others are optional:
//! - While the machine is busy their intervals are stretched, by 2 and then by 4, never beyond [`LONGEST_STRETCHED`].
//! - While the agent takes more processor time or memory than its ceilings, it sheds one of them after the other, in the
//!   order of what they cost, dearest first, equal ones by name; the last one shed is the first to come back.
//!
//! This module decides from numbers; the schedule measures and obeys. What it deliberately does not do: read the machine.

use std::time::Duration;

use veghe_wire::document::{Node, Problems, format_bytes, parse_bytes};

/// Sensors that shipped alerts stand on, and whatever a person configured by name: never stretched, never shed.
pub const ESSENTIAL: [&str; 24] = [
    "backups",
    "certificates",
    "cpu",
    "digitization",
    "escl",
    "filesystem",
    "loadavg",
    "lvm",
    "mdadm",
    "meminfo",
    "named_processes",
    "nut",
    "portable",
    "pressure",
    "programs",
    "redfish",
    "scrapes",
    "services",
    "smart",
    "snmp",
    "systemd",
    "textfile",
    "time",
    "timex",
];
/// No stretched interval is longer, so that a series never looks gone to whoever looks back five minutes.
pub const LONGEST_STRETCHED: Duration = Duration::from_mins(2);
/// Some work waited for a processor for more than this share of the last ten seconds: the machine is busy.
const BUSY_PRESSURE: f64 = 0.4;
/// Looks in a row that have to agree before intervals grow, and before they shrink.
const LOOKS: (u32, u32) = (2, 4);
/// Looks over which processor time is averaged, and from one thing shed to the next.
const WINDOW: usize = 4;
/// Looks with room to spare until a sensor comes back.
const CALM_LOOKS: u32 = 8;
/// Below this share of a ceiling there is room to spare.
const ROOM: f64 = 0.7;

/// Its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether intervals are stretched while the machine is busy.
    pub back_off: bool,
    /// Processor time it may take, as a share of one processor.
    pub max_cpu_ratio: f64,
    /// Memory it may have resident.
    pub max_memory_bytes: u64,
    /// From one look to the next; no setting of a file.
    pub look_every: Duration,
}

impl Settings {
    /// Neither back-off nor ceilings.
    pub fn boundless() -> Self {
        Self { back_off: false, max_cpu_ratio: f64::INFINITY, max_memory_bytes: u64::MAX, ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { back_off: true, max_cpu_ratio: 0.1, max_memory_bytes: 64 << 20, look_every: Duration::from_secs(5) }
    }
}

/// Reads the section `footprint`.
pub(crate) fn read(node: &Node, problems: &mut Problems) -> Settings {
    let mut section = node.section(problems);
    let mut settings = Settings::default();
    let flag = veghe_wire::document::parse_bool;
    settings.back_off = section.value("back_off", problems, flag).unwrap_or(settings.back_off);
    settings.max_cpu_ratio = section.value("max_cpu", problems, parse_percent).unwrap_or(settings.max_cpu_ratio);
    let memory = |text: &str| match parse_bytes(text)? {
        bytes if bytes >= 16 << 20 => Ok(bytes),
        _ => Err(format!("`{text}` is less than the agent needs to work at all; at least 16MiB")),
    };
    settings.max_memory_bytes = section.value("max_memory", problems, memory).unwrap_or(settings.max_memory_bytes);
    section.finish(&["back_off", "max_cpu", "max_memory"], problems);
    settings
}

/// What [`read`] reads.
pub(crate) fn write(settings: &Settings) -> String {
    format!(
        "footprint:\n  back_off: {}\n  max_cpu: {}%\n  max_memory: {}\n",
        settings.back_off,
        (settings.max_cpu_ratio * 1e4).round() / 100.0,
        format_bytes(settings.max_memory_bytes)
    )
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|number| (0.1..=10_000.0).contains(number));
    number
        .map(|number| number / 100.0)
        .ok_or_else(|| format!("`{text}` is no share of a processor from 0.1% to 10000%; write for example `10%`"))
}

/// What one look at the machine and the agent gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Since the look before.
    pub elapsed: Duration,
    /// The share of time for which some work waited for a processor; `None` where nobody tells.
    pub cpu_pressure: Option<f64>,
    /// Processor time of the agent since the look before.
    pub cpu: Duration,
    /// What it has resident.
    pub resident_bytes: u64,
}

/// What to do with the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Stay,
    /// Leave out one more optional sensor, the dearest of them.
    Shed,
    /// Take back the one that was shed last.
    TakeBack,
}

/// Decides.
#[derive(Debug)]
pub struct Footprint {
    settings: Settings,
    /// Of the last looks: elapsed, processor time.
    window: std::collections::VecDeque<(Duration, Duration)>,
    busy_looks: u32,
    calm_looks: u32,
    spare_looks: u32,
    stretch: u32,
    shed: u32,
    told_full: bool,
}

/// The share of the last ten seconds for which some work waited for a processor, from the kernel's pressure; where it has
/// none, 1 while twice as much work is ready as there are processors. `None` on other systems.
pub(crate) fn cpu_pressure() -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        if let Ok(text) = std::fs::read_to_string("/proc/pressure/cpu") {
            let average = text.lines().next()?.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
            return average.parse::<f64>().ok().map(|percent| percent / 100.0);
        }
        let text = std::fs::read_to_string("/proc/loadavg").ok()?;
        let load: f64 = text.split(' ').next()?.parse().ok()?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Some(f64::from(u8::from(load > 2.0 * processors as f64)))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

impl Footprint {
    /// At work with everything.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            window: std::collections::VecDeque::with_capacity(WINDOW),
            busy_looks: 0,
            calm_looks: 0,
            spare_looks: 0,
            stretch: 1,
            shed: 0,
            told_full: false,
        }
    }

    /// Other bounds.
    pub fn adopt(&mut self, settings: Settings) {
        self.settings = settings;
        if !self.settings.back_off {
            self.stretch = 1;
        }
    }

    /// By what optional sensors' intervals are multiplied now.
    pub fn stretch(&self) -> u32 {
        self.stretch
    }

    /// `interval` of an optional sensor as it is now.
    pub fn stretched(&self, interval: Duration) -> Duration {
        interval.max((interval * self.stretch).min(LONGEST_STRETCHED))
    }

    /// How many sensors are shed, for whoever had to leave it at fewer.
    pub fn shed_is(&mut self, shed: u32) {
        self.shed = shed;
    }

    /// What follows from `look`; `can_shed` optional sensors are at work.
    pub fn judge(&mut self, look: Look, can_shed: usize) -> Order {
        self.judge_machine(look.cpu_pressure);
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back((look.elapsed, look.cpu));
        let (elapsed, cpu) = self
            .window
            .iter()
            .fold((0.0, 0.0), |(elapsed, cpu), (e, c)| (elapsed + e.as_secs_f64(), cpu + c.as_secs_f64()));
        let ratio = if elapsed > 0.0 { cpu / elapsed } else { 0.0 };
        let memory = look.resident_bytes as f64 / self.settings.max_memory_bytes as f64;
        let load = (ratio / self.settings.max_cpu_ratio).max(memory);
        if self.window.len() < WINDOW {
            return Order::Stay;
        }
        if load > 1.0 {
            self.spare_looks = 0;
            // What was shed shows in the next window, not in this one.
            self.window.clear();
            if can_shed == 0 {
                if !std::mem::replace(&mut self.told_full, true) {
                    tracing::warn!(
                        cpu_ratio = ratio,
                        resident_bytes = look.resident_bytes,
                        "the agent is above its ceilings with every optional sensor shed; raise footprint.max_cpu or footprint.max_memory, or lengthen intervals"
                    );
                }
                return Order::Stay;
            }
            tracing::warn!(
                cpu_ratio = ratio,
                resident_bytes = look.resident_bytes,
                "the agent is above its ceilings and sheds a sensor"
            );
            self.shed += 1;
            return Order::Shed;
        }
        self.told_full = false;
        if load > ROOM || self.shed == 0 {
            self.spare_looks = 0;
            return Order::Stay;
        }
        self.spare_looks += 1;
        if self.spare_looks < CALM_LOOKS {
            return Order::Stay;
        }
        self.spare_looks = 0;
        self.shed -= 1;
        Order::TakeBack
    }

    fn judge_machine(&mut self, pressure: Option<f64>) {
        let Some(pressure) = pressure.filter(|_| self.settings.back_off) else { return };
        if pressure > BUSY_PRESSURE {
            (self.busy_looks, self.calm_looks) = (self.busy_looks + 1, 0);
        } else if pressure < BUSY_PRESSURE / 2.0 {
            (self.busy_looks, self.calm_looks) = (0, self.calm_looks + 1);
        }
        let before = self.stretch;
        if self.busy_looks >= LOOKS.0 {
            (self.stretch, self.busy_looks) = ((self.stretch * 2).min(4), 0);
        } else if self.calm_looks >= LOOKS.1 {
            (self.stretch, self.calm_looks) = ((self.stretch / 2).max(1), 0);
        }
        if before != self.stretch {
            tracing::info!(
                factor = self.stretch,
                pressure,
                "optional sensors' intervals changed with the machine's load"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(pressure: f64, cpu_ms: u64, mib: u64) -> Look {
        Look {
            elapsed: Duration::from_secs(1),
            cpu_pressure: Some(pressure),
            cpu: Duration::from_millis(cpu_ms),
            resident_bytes: mib << 20,
        }
    }

    fn run(footprint: &mut Footprint, look: Look, times: usize) -> Vec<Order> {
        (0..times).map(|_| footprint.judge(look, 5)).filter(|order| *order != Order::Stay).collect()
    }

    #[test]
    fn intervals_grow_while_the_machine_is_busy_and_shrink_again_within_bounds() {
        let mut footprint = Footprint::new(Settings::default());
        let of = |footprint: &Footprint, seconds| footprint.stretched(Duration::from_secs(seconds)).as_secs();
        run(&mut footprint, look(0.9, 1, 10), 1);
        assert_eq!(of(&footprint, 15), 15, "one look is no load");
        run(&mut footprint, look(0.9, 1, 10), 9);
        assert_eq!([15, 60, 120, 600].map(|s| of(&footprint, s)), [60, 120, 120, 600]);
        run(&mut footprint, look(0.3, 1, 10), 50);
        assert_eq!(footprint.stretch(), 4, "neither busy nor calm");
        run(&mut footprint, look(0.0, 1, 10), 8);
        assert_eq!(footprint.stretch(), 1);
        footprint.adopt(Settings { back_off: false, ..Settings::default() });
        run(&mut footprint, look(0.9, 1, 10), 9);
        assert_eq!(footprint.stretch(), 1);
    }

    #[test]
    fn above_a_ceiling_one_sensor_goes_a_window_and_they_come_back_with_room_to_spare() {
        for over in [look(0.0, 200, 10), look(0.0, 1, 100)] {
            let mut footprint = Footprint::new(Settings::default());
            assert_eq!(run(&mut footprint, over, 3), []);
            assert_eq!(run(&mut footprint, over, 9), [Order::Shed, Order::Shed, Order::Shed]);
            assert_eq!(run(&mut footprint, look(0.0, 90, 10), 100), [], "below the ceiling, but without room");
            assert_eq!(run(&mut footprint, look(0.0, 10, 10), 100), [Order::TakeBack; 3]);
        }
    }

    #[test]
    fn what_cannot_be_shed_is_not_ordered() {
        let mut footprint = Footprint::new(Settings::default());
        assert!((0..50).all(|_| footprint.judge(look(0.0, 900, 10), 0) == Order::Stay));
        assert!((0..50).all(|_| footprint.judge(look(0.0, 1, 10), 0) == Order::Stay), "nothing to take back");
    }

    #[test]
    fn settings_read_back_and_wrong_ones_are_told() {
        let read_one = |text: &str| {
            let mut problems = Problems::new("agent.yaml");
            let node = Node::parse(text, &mut problems).expect("yaml");
            let settings = read(node.at("footprint").expect("section"), &mut problems);
            problems.finish(Some(settings))
        };
        let settings =
            Settings { back_off: false, max_cpu_ratio: 0.25, max_memory_bytes: 32 << 20, ..Settings::default() };
        assert_eq!(read_one(&write(&settings)), Ok(settings));
        let wrong = "footprint:\n  max_cpu: 5\n  max_memory: 1MiB\n  back_off: often\n";
        assert_eq!(read_one(wrong).expect_err("wrong").iter().count(), 3);
    }

    proptest! {
        #[test]
        fn it_never_takes_back_more_than_it_shed(looks in prop::collection::vec((0.0..1.0, 0_u64..300, 1_u64..100, 0_usize..4), 0..200)) {
            let mut footprint = Footprint::new(Settings::default());
            let mut shed = 0_i32;
            for (pressure, cpu, mib, can_shed) in looks {
                match footprint.judge(look(pressure, cpu, mib), can_shed) {
                    Order::Shed => { prop_assert!(can_shed > 0); shed += 1; }
                    Order::TakeBack => shed -= 1,
                    Order::Stay => {}
                }
                prop_assert!(shed >= 0 && [1, 2, 4].contains(&footprint.stretch()));
            }
        }
    }
}
