//! What a file of a hot folder is: new images, the same again, a rewrite, a move, a duplicate, or nothing that counts.
//!
//! Identity: the same name with other content is a rewrite; the same file id, or the same content, whose old name is gone is a
//! move; the same content whose old name is there is a duplicate. Content is the same where size and sample are, and then all
//! of it, read only in that case. Invariant: what is told and what is remembered of it are in one transaction.
//! What it deliberately does not do: wait; decide when a file is looked at.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};
use veghe_imagefile::{Completeness, InspectError, Inspection};
use veghe_wire::AgentId;

use super::Trouble;
use super::content;
use super::event::Draft;
use super::glance::{Glance, NEIGHBOURS, OUTCOMES};
use super::hotfolder::Look;
use super::settings::{Deletions, Digest, Duplicates, HotFolder, LookFor};
use super::status::{FolderStatus, REASONS, Status};
use super::store::{Known, State, Store};
use super::template::{Misfit, Place};
use crate::database::DatabaseError;

/// Images of one event, as the collector bounds them.
const MAX_FRAMES: u32 = 100_000;
/// Files that may be gone at once before that is told as deletions; more look like a share that is gone.
const MAX_DELETIONS: usize = 1000;
/// Files up to this size are always hashed whole: pages in black and white are small and alike.
const CHEAP_BYTES: u64 = 4 << 20;
/// Where an image's station is not known; as the collector calls it.
const NO_STATION: &str = "unassigned";

/// What became of a file.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is not whole yet.
    Wait,
    /// It changed while it was looked at.
    Changed(Look),
    /// There is no more to say of it as it is.
    Settled { has_told: bool },
}

/// Says what files are.
#[derive(Debug)]
pub(crate) struct Judge {
    settings: HotFolder,
    agent: AgentId,
    status: Arc<FolderStatus>,
    all: Arc<Status>,
}

/// What the new file is to those that are known.
enum Relation {
    New {
        generation: u32,
    },
    /// The same content under the same name.
    Same(Known),
    Rewrite(Known),
    Move(Known),
    Duplicate,
}

impl Judge {
    pub(crate) fn new(settings: HotFolder, agent: AgentId, status: Arc<FolderStatus>, all: Arc<Status>) -> Self {
        status.looks.store(!settings.look_for.is_empty(), Relaxed);
        Self { settings, agent, status, all }
    }

    /// Judges the file `path` that looked like `look`; a torn one only where there is no patience left.
    pub(crate) fn judge(
        &self,
        store: &mut Store,
        path: &Path,
        look: Look,
        is_patient: bool,
        now_ms: i64,
    ) -> Result<Verdict, DatabaseError> {
        let place = match self.settings.template.read(&path.to_string_lossy()) {
            Ok(place) => place,
            Err(misfit) => return self.refuse_name(store, path, look, misfit, now_ms),
        };
        let full = self.settings.path.join(path);
        let seen = File::open(&full).and_then(|file| {
            let found = veghe_imagefile::inspect(&file, look.size);
            let sample = content::sample(&file, look.size)?;
            let is_cheap = look.size <= CHEAP_BYTES;
            let digest = if is_cheap || self.settings.digest == Digest::Always {
                Some(content::digest(file.try_clone()?)?)
            } else {
                None
            };
            Ok((found, sample, digest, Look::of(&file.metadata()?)))
        });
        let (found, sample, digest, after) = match seen {
            Ok(seen) => seen,
            Err(error) => return Ok(self.unreadable(&error)),
        };
        if !after.is_still(look, self.settings.watch) {
            return Ok(Verdict::Changed(after));
        }
        let found = match found {
            Ok(found) if found.completeness == Completeness::Complete => found,
            Err(InspectError::Read(error)) => return Ok(self.unreadable(&error)),
            // A part of a file may look like anything.
            _ if is_patient => return Ok(Verdict::Wait),
            Ok(found) => return self.refuse(store, path, look, &place, Some(&found), "truncated", now_ms),
            Err(InspectError::UnknownFormat) => {
                return self.refuse(store, path, look, &place, None, "format", now_ms);
            }
            Err(_) => return self.refuse(store, path, look, &place, None, "damaged", now_ms),
        };
        let mut known = self.known(path, look, &place, State::Counted);
        (known.sample, known.digest) = (sample, digest);
        known.frames = found.count.unwrap_or(0).min(MAX_FRAMES);
        let relation = match self.relation(store, &mut known) {
            Ok(relation) => relation,
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::Read(error)) => return Ok(self.unreadable(&error)),
        };
        let glance = match self.glance(store, &known, look, &relation, &found) {
            Ok(Ok(glance)) => glance,
            Ok(Err(after)) => return Ok(Verdict::Changed(after)),
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::Read(error)) => return Ok(self.unreadable(&error)),
        };
        if let Some(glance) = &glance {
            known.hashes = Some(glance.hashes.clone()).filter(|hashes| !hashes.is_empty());
        }
        self.book(store, known, relation, (&found, glance.as_ref()), now_ms)
    }

    /// Looks at the images of a file that is new to its unit, where the settings want it; a file that changed meanwhile is as
    /// the error says.
    fn glance(
        &self,
        store: &Store,
        new: &Known,
        look: Look,
        relation: &Relation,
        found: &Inspection,
    ) -> Result<Result<Option<Glance>, Look>, Trouble> {
        let is_new = match relation {
            Relation::New { .. } | Relation::Rewrite(_) => true,
            Relation::Move(prior) => prior.unit != new.unit,
            Relation::Duplicate => self.settings.duplicates == Duplicates::Count,
            Relation::Same(_) => false,
        };
        if !is_new || self.settings.look_for.is_empty() {
            return Ok(Ok(None));
        }
        let mut neighbours = Vec::new();
        if self.settings.look_for.contains(&LookFor::NearDuplicate) {
            // What it is instead of is no neighbour.
            let but = match relation {
                Relation::Rewrite(prior) => prior,
                _ => new,
            };
            let but = Known { unit: new.unit.clone(), ..but.clone() };
            neighbours = store.looks_of(&self.settings.name, &but, NEIGHBOURS)?;
        }
        let file = File::open(self.path_of(new))?;
        let tick = || self.status.ask(crate::clock::instant());
        let glance = Glance::at(&file, found, &self.settings.look_for, &neighbours, tick);
        let after = Look::of(&file.metadata()?);
        Ok(if after.is_still(look, self.settings.watch) { Ok(Some(glance)) } else { Err(after) })
    }

    fn known(&self, path: &Path, look: Look, place: &Place, state: State) -> Known {
        let dir = path.parent().unwrap_or(Path::new(""));
        Known {
            dir: dir.as_os_str().as_bytes().to_vec(),
            name: path.file_name().unwrap_or_default().as_bytes().to_vec(),
            ino: look.ino,
            size: look.size,
            mtime_ns: look.mtime_ns,
            sample: 0,
            digest: None,
            state,
            frames: 0,
            unit: place.unit.clone(),
            batch: place.batch.clone(),
            station: place.station.clone().or_else(|| self.settings.station.clone()),
            generation: 0,
            gone_ms: None,
            hashes: None,
        }
    }

    fn path_of(&self, known: &Known) -> PathBuf {
        self.settings.path.join(OsStr::from_bytes(&known.dir)).join(OsStr::from_bytes(&known.name))
    }

    /// What is now where a known file was. The kernel's client for SMB goes on telling of a name that is gone at the server while
    /// it has a lease on the file, as it has of one that was just opened by its new name; to open the old one it asks.
    fn found_at(&self, known: &Known) -> io::Result<fs::Metadata> {
        let path = self.path_of(known);
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_file()
            && let Err(error) = File::open(&path)
            && error.kind() == io::ErrorKind::NotFound
        {
            return Err(error);
        }
        Ok(metadata)
    }

    /// Whether a known file is still where it was, as it was.
    fn is_there(&self, known: &Known) -> bool {
        self.found_at(known).is_ok_and(|metadata| {
            let look = Look::of(&metadata);
            (look.size, look.mtime_ns) == (known.size, known.mtime_ns)
        })
    }

    /// The digest of a known file, read where that was not needed before.
    fn digest_of(&self, known: &Known) -> io::Result<[u8; 32]> {
        match known.digest {
            Some(digest) => Ok(digest),
            None => content::digest(File::open(self.path_of(known))?),
        }
    }

    fn relation(&self, store: &Store, new: &mut Known) -> Result<Relation, Trouble> {
        let folder = &self.settings.name;
        let mut generation = 0;
        if let Some(prior) = store.file(folder, &new.dir, &new.name)? {
            generation = prior.generation;
            match prior.state {
                State::Counted => {
                    let is_same = prior.size == new.size && prior.sample == new.sample;
                    let is_same = is_same
                        && match prior.digest {
                            Some(digest) => self.digest_of(new)? == digest,
                            None => true,
                        };
                    new.generation = generation;
                    return Ok(if is_same { Relation::Same(prior) } else { Relation::Rewrite(prior) });
                }
                // It was told as gone and counts again.
                State::Deleted => generation += 1,
                State::Duplicate | State::Refused => {}
            }
        }
        let is_other = |known: &Known| (&known.dir, &known.name) != (&new.dir, &new.name);
        let is_image = |known: &Known| matches!(known.state, State::Counted | State::Deleted);
        for known in store.by_id(folder, new.ino)?.into_iter().filter(|known| is_other(known) && is_image(known)) {
            if self.found_at(&known).is_ok_and(|there| there.ino() == new.ino) {
                continue;
            }
            if (known.size, known.mtime_ns) == (new.size, new.mtime_ns) {
                return Ok(Self::moved(known, generation));
            }
            // Renamed and written again between two looks, unless the system gave the id of a file that is gone to a new one.
            if known.state == State::Counted && born_ns(&self.path_of(new)).is_some_and(|born| born <= known.mtime_ns) {
                new.generation = known.generation;
                return Ok(Relation::Rewrite(known));
            }
        }
        let alike = store.by_sample(folder, new.sample, new.size)?;
        for known in alike.into_iter().filter(|known| is_other(known) && is_image(known)) {
            if self.is_there(&known) {
                let digest = self.digest_of(new)?;
                new.digest = Some(digest);
                if self.digest_of(&known)? == digest {
                    return Ok(Relation::Duplicate);
                }
            } else if self.found_at(&known).is_err() {
                // Without a digest of what can't be read any more size and samples would not do, since blank pages are alike.
                // With the moment of the last write they do: a rename keeps it, also where a share gives another file id.
                let is_it = match known.digest {
                    Some(digest) => self.digest_of(new)? == digest,
                    None => known.mtime_ns == new.mtime_ns,
                };
                if is_it {
                    return Ok(Self::moved(known, generation));
                }
            }
        }
        Ok(Relation::New { generation })
    }

    fn moved(known: Known, generation: u32) -> Relation {
        if known.state == State::Deleted {
            // It was told as gone: it counts anew, under another id.
            return Relation::New { generation: generation.max(known.generation + 1) };
        }
        Relation::Move(known)
    }

    /// Tells and remembers, in one transaction; counts after it.
    fn book(
        &self,
        store: &mut Store,
        mut new: Known,
        relation: Relation,
        (found, glance): (&Inspection, Option<&Glance>),
        now_ms: i64,
    ) -> Result<Verdict, DatabaseError> {
        let folder = self.settings.name.clone();
        let facts = glance.map(Glance::facts).unwrap_or_default();
        let place = self.path_of(&new).display().to_string();
        let station = new.station.clone().unwrap_or_else(|| NO_STATION.to_owned());
        let (counter, outcome, images) = match &relation {
            Relation::Same(_) => (None, "", 0),
            Relation::New { .. } => (Some(&self.status.complete_total), "complete", new.frames),
            Relation::Rewrite(_) => (Some(&self.status.replaced_total), "replaced", 0),
            Relation::Move(_) => (Some(&self.status.moved_total), "moved", 0),
            Relation::Duplicate if self.settings.duplicates == Duplicates::Count => {
                (Some(&self.status.complete_total), "complete", new.frames)
            }
            Relation::Duplicate => (Some(&self.status.duplicate_total), "duplicate", 0),
        };
        let has_told = store.write(|changes| {
            let mut has_told = true;
            match relation {
                Relation::Same(prior) => {
                    (new.frames, new.hashes) = (prior.frames, prior.hashes);
                    has_told = false;
                }
                Relation::New { generation } => {
                    new.generation = generation;
                    changes.tell(&self.event("image.captured", &new, Some(found), &facts, now_ms))?;
                }
                Relation::Rewrite(prior) if prior.unit != new.unit => {
                    changes.forget(&folder, &prior.dir, &prior.name)?;
                    changes.tell(&self.event("image.deleted", &prior, None, &[], now_ms))?;
                    new.generation += 1;
                    changes.tell(&self.event("image.captured", &new, Some(found), &facts, now_ms))?;
                }
                Relation::Rewrite(prior) => {
                    changes.forget(&folder, &prior.dir, &prior.name)?;
                    let more = [&[("frames_before", json!(prior.frames))], &*facts].concat();
                    changes.tell(&self.event("image.replaced", &new, Some(found), &more, now_ms))?;
                }
                Relation::Move(prior) => {
                    changes.forget(&folder, &prior.dir, &prior.name)?;
                    (new.generation, new.digest) = (prior.generation, new.digest.or(prior.digest));
                    new.hashes = new.hashes.take().or(prior.hashes.clone().filter(|_| prior.unit == new.unit));
                    has_told = prior.unit != new.unit;
                    if has_told {
                        changes.tell(&self.event("image.deleted", &prior, None, &[], now_ms))?;
                        new.generation += 1;
                        changes.tell(&self.event("image.captured", &new, Some(found), &facts, now_ms))?;
                    }
                }
                Relation::Duplicate if self.settings.duplicates == Duplicates::Count => {
                    changes.tell(&self.event("image.captured", &new, Some(found), &facts, now_ms))?;
                }
                Relation::Duplicate => {
                    new.state = State::Duplicate;
                    changes.tell(&self.event("image.duplicate", &new, Some(found), &[], now_ms))?;
                }
            }
            changes.keep(&folder, &new)?;
            changes.mended("hot folder", &place)?;
            if images > 0 {
                changes.add("images", &station, images.into())?;
            }
            if counter.is_some() {
                changes.add("files", &format!("{folder}/{outcome}"), 1)?;
            }
            for (outcome, count) in glance.into_iter().flat_map(|glance| OUTCOMES.iter().zip(glance.outcomes)) {
                if count > 0 {
                    changes.add("looked at", &format!("{folder}/{outcome}"), count.into())?;
                }
            }
            Ok(has_told)
        })?;
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
        let looked_at = glance.into_iter().flat_map(|glance| self.status.looked_at_total.iter().zip(glance.outcomes));
        for (counter, count) in looked_at {
            counter.fetch_add(count.into(), Relaxed);
        }
        if images > 0 {
            self.all.add_images(&station, images.into());
        }
        Ok(Verdict::Settled { has_told })
    }

    fn event(
        &self,
        kind: &str,
        file: &Known,
        found: Option<&Inspection>,
        more: &[(&str, Value)],
        now_ms: i64,
    ) -> String {
        let mut data = Map::new();
        let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
        put("unit", json!(file.unit));
        put("frames", json!(file.frames));
        put("bytes", json!(file.size));
        put("stage", json!("scan"));
        put("observed_by", json!("hotfolder"));
        if let Some(batch) = &file.batch {
            put("batch", json!(batch));
        }
        if let Some(station) = &file.station {
            put("station", json!(station));
        }
        if let Some(found) = found {
            put("format", json!(found.format.name()));
            put("complete", json!(found.completeness == Completeness::Complete));
            if let Some(image) = found.images.first() {
                for (name, value, most) in [
                    ("width_px", image.width_px, 1 << 20),
                    ("height_px", image.height_px, 1 << 20),
                    ("bits", image.bits.into(), 64),
                    ("samples", image.samples.into(), 16),
                ] {
                    if value <= most {
                        put(name, json!(value));
                    }
                }
                let ppi = image.ppi.map(|(across, down)| across.min(down));
                if let Some(ppi) = ppi.filter(|ppi| (0.0..=100_000.0).contains(ppi)) {
                    put("ppi", json!((ppi * 100.0).round() / 100.0));
                }
                if !image.compression.is_empty() && image.compression.len() <= 128 {
                    put("compression", json!(image.compression));
                }
                put("icc", json!(image.icc));
            }
        }
        if let Some(digest) = file.digest {
            put("digest", json!(format!("blake3:{}", blake3::Hash::from_bytes(digest).to_hex())));
        }
        for (name, value) in more {
            put(name, value.clone());
        }
        let about = [
            self.settings.name.as_bytes(),
            &file.ino.to_le_bytes(),
            &file.size.to_le_bytes(),
            &file.mtime_ns.to_le_bytes(),
            file.unit.as_bytes(),
            &file.generation.to_le_bytes(),
        ];
        let draft = Draft {
            agent: &self.agent,
            station: file.station.as_deref(),
            kind,
            // What is gone or moved is so now; images were made when their file was last changed.
            time_ms: if kind == "image.deleted" { now_ms } else { file.mtime_ns / 1_000_000 },
            about: &about,
            data,
        };
        draft.to_json(now_ms)
    }

    /// A file that is not whole, or no image, is told once, and does not count.
    #[expect(clippy::too_many_arguments, reason = "they are what there is to say of a file")]
    fn refuse(
        &self,
        store: &mut Store,
        path: &Path,
        look: Look,
        place: &Place,
        found: Option<&Inspection>,
        reason: &str,
        now_ms: i64,
    ) -> Result<Verdict, DatabaseError> {
        let mut known = self.known(path, look, place, State::Refused);
        let folder = self.settings.name.clone();
        let prior = store.file(&folder, &known.dir, &known.name)?;
        let was_counted = prior.as_ref().is_some_and(|prior| prior.state == State::Counted);
        let more = [("complete", json!(false)), ("problem", json!(reason))];
        let event = self.event("image.captured", &known, found, &more, now_ms);
        if let (true, Some(prior)) = (was_counted, prior) {
            // Images that counted go on counting until there are others: a rewrite that was torn is mended by the next.
            known = Known { ino: look.ino, size: look.size, mtime_ns: look.mtime_ns, ..prior };
            known.sample = 0;
        }
        self.note(store, path, &known, reason, Some(&event), now_ms)?;
        Ok(Verdict::Settled { has_told: true })
    }

    fn refuse_name(
        &self,
        store: &mut Store,
        path: &Path,
        look: Look,
        misfit: Misfit,
        now_ms: i64,
    ) -> Result<Verdict, DatabaseError> {
        let reason = if misfit == Misfit::Station { "station" } else { "name" };
        let known = self.known(path, look, &Place::default(), State::Refused);
        self.note(store, path, &known, reason, None, now_ms)?;
        Ok(Verdict::Settled { has_told: false })
    }

    fn note(
        &self,
        store: &mut Store,
        path: &Path,
        known: &Known,
        reason: &str,
        event: Option<&str>,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        let folder = &self.settings.name;
        let what = match reason {
            "truncated" => "is not whole: it was cut, or its writer died; scan it again".to_owned(),
            "format" => "is no TIFF, JPEG, JPEG 2000 or PDF whatever its name says".to_owned(),
            "damaged" => "contradicts its own format; scan it again".to_owned(),
            "station" => {
                "names a station that is not 1 to 32 letters, digits, `.`, `_` or `-`; rename its folder".to_owned()
            }
            _ => format!("does not fit the template `{}`; move or rename it", self.settings.template.text()),
        };
        let place = self.settings.path.join(path).display().to_string();
        store.write(|changes| {
            changes.keep(folder, known)?;
            changes.add("files", &format!("{folder}/refused/{reason}"), 1)?;
            changes.note("hot folder", &place, &what, now_ms)?;
            event.map_or(Ok(()), |event| changes.tell(event))
        })?;
        if let Some(counter) =
            REASONS.iter().position(|known| *known == reason).and_then(|at| self.status.refused_total.get(at))
        {
            counter.fetch_add(1, Relaxed);
        }
        tracing::warn!(folder, reason, "a file does not count; `veghe-agent digitization` names it");
        Ok(())
    }

    fn unreadable(&self, error: &io::Error) -> Verdict {
        tracing::debug!(%error, folder = self.settings.name, "cannot read a file; it is looked at again");
        Verdict::Wait
    }

    /// Tells files that were counted and are gone since before `before_ms`, where the settings want it.
    pub(crate) fn tell_deletions(&self, store: &mut Store, before_ms: i64, now_ms: i64) -> Result<(), DatabaseError> {
        if self.settings.deletions == Deletions::Ignore {
            return Ok(());
        }
        let gone = store.gone(&self.settings.name, before_ms, MAX_DELETIONS + 1)?;
        if gone.len() > MAX_DELETIONS {
            tracing::warn!(
                folder = self.settings.name,
                "too many files are gone at once; that is not told as deletions"
            );
            return Ok(());
        }
        for mut file in gone {
            let twins = store.by_sample(&self.settings.name, file.sample, file.size)?;
            let heir = twins.into_iter().find(|twin| {
                twin.state == State::Duplicate
                    && twin.gone_ms.is_none()
                    && twin.unit == file.unit
                    && self.is_there(twin)
            });
            let folder = &self.settings.name;
            let event = self.event("image.deleted", &file, None, &[], now_ms);
            file.state = State::Deleted;
            store.write(|changes| {
                changes.keep(folder, &file)?;
                if let Some(heir) = heir {
                    // The duplicate stands for it from now on.
                    return changes.keep(folder, &Known { state: State::Counted, ..heir });
                }
                changes.add("files", &format!("{folder}/deleted"), 1)?;
                changes.tell(&event)
            })?;
            self.status.deleted_total.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// What the counters counted before the agent was started.
    pub(crate) fn restore(store: &Store, status: &FolderStatus) -> Result<(), DatabaseError> {
        let set = |counter: &AtomicU64, count: u64| counter.store(count, Relaxed);
        for (label, count) in store.tallies("files")? {
            let Some(outcome) = label.strip_prefix(&status.name).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            match outcome {
                "complete" => set(&status.complete_total, count),
                "duplicate" => set(&status.duplicate_total, count),
                "replaced" => set(&status.replaced_total, count),
                "moved" => set(&status.moved_total, count),
                "deleted" => set(&status.deleted_total, count),
                other => {
                    let reason = other.strip_prefix("refused/").unwrap_or_default();
                    if let Some(at) = REASONS.iter().position(|known| *known == reason)
                        && let Some(counter) = status.refused_total.get(at)
                    {
                        set(counter, count);
                    }
                }
            }
        }
        for (label, count) in store.tallies("looked at")? {
            let outcome = label.strip_prefix(&status.name).and_then(|rest| rest.strip_prefix('/'));
            let at = OUTCOMES.iter().position(|known| Some(*known) == outcome);
            if let Some(counter) = at.and_then(|at| status.looked_at_total.get(at)) {
                set(counter, count);
            }
        }
        Ok(())
    }
}

/// When the file was made, where the file system knows.
fn born_ns(path: &Path) -> Option<i64> {
    let born = fs::symlink_metadata(path).ok()?.created().ok()?;
    i64::try_from(born.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}
