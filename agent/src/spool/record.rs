//! The bytes of a segment: its header, its records, the notes of what is settled. What they mean is told in [`super`].

pub(super) const MAGIC: &[u8; 8] = b"VEGHESP1";
/// Magic, number, spool id, CRC-32 of these.
pub(super) const HEADER_BYTES: usize = 8 + 8 + 8 + 4;
/// Length, CRC-32, kind.
pub(super) const RECORD_HEADER_BYTES: usize = 4 + 4 + 1;
pub(super) const KIND_DICTIONARY: u8 = 1;
pub(super) const KIND_BATCH: u8 = 2;
/// Sequence and time stamp.
pub(super) const BATCH_PREFIX_BYTES: usize = 8 + 8;
pub(super) const ACK_BYTES: usize = 8 + 4;
/// No record is larger: a frame is smaller than a packet.
pub(super) const MAX_RECORD_BYTES: usize = veghe_wire::MAX_PACKET_BYTES;

pub(super) fn header_spool_id(data: &[u8], number: u64) -> Option<u64> {
    let (header, _) = data.split_first_chunk::<HEADER_BYTES>()?;
    let (fields, crc) = header.split_last_chunk::<4>()?;
    let intact = fields.starts_with(MAGIC)
        && crc32fast::hash(fields) == u32::from_le_bytes(*crc)
        && fields.get(8..16)? == number.to_le_bytes();
    intact.then_some(u64::from_le_bytes(fields.get(16..24)?.try_into().ok()?))
}

pub(super) fn settled_sequence(note: &[u8]) -> Option<u64> {
    let (sequence, crc) = note.split_first_chunk::<8>()?;
    (crc32fast::hash(sequence).to_le_bytes() == crc).then(|| u64::from_le_bytes(*sequence))
}

pub(super) fn batch_prefix(record: &Record<'_>) -> Option<(u64, i64)> {
    if record.kind != KIND_BATCH {
        return None;
    }
    let (sequence, rest) = record.content.split_first_chunk::<8>()?;
    let (timestamp_ms, _) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*sequence), i64::from_le_bytes(*timestamp_ms)))
}

pub(super) fn record_crc(length: [u8; 4], kind: u8, content: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(&[kind]);
    for part in content {
        hasher.update(part);
    }
    hasher.finalize()
}

pub(super) fn push_record(bytes: &mut Vec<u8>, kind: u8, content: &[&[u8]]) {
    let length = (content.iter().map(|part| part.len()).sum::<usize>() as u32).to_le_bytes();
    bytes.extend(length);
    bytes.extend(record_crc(length, kind, content).to_le_bytes());
    bytes.push(kind);
    for part in content {
        bytes.extend_from_slice(part);
    }
}

pub(super) struct Record<'a> {
    pub(super) kind: u8,
    /// Of its content, in the file.
    pub(super) offset: usize,
    pub(super) content: &'a [u8],
}

/// The intact records of a segment. What is damaged is passed over to the next intact one.
pub(super) struct Records<'a> {
    pub(super) data: &'a [u8],
    /// After the last intact record.
    pub(super) end: usize,
    pub(super) corrupt: u64,
}

impl<'a> Records<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, end: HEADER_BYTES, corrupt: 0 }
    }

    fn at(&self, offset: usize) -> Option<Record<'a>> {
        let data: &'a [u8] = self.data;
        let (header, rest) = data.get(offset..)?.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let (length, crc_and_kind) = header.split_first_chunk::<4>()?;
        let (crc, kind) = crc_and_kind.split_first_chunk::<4>()?;
        let kind = *kind.first()?;
        let bytes = u32::from_le_bytes(*length) as usize;
        let known = matches!(kind, KIND_DICTIONARY | KIND_BATCH) && bytes <= MAX_RECORD_BYTES;
        let content = rest.get(..bytes).filter(|_| known)?;
        let intact = record_crc(*length, kind, &[content]) == u32::from_le_bytes(*crc);
        intact.then_some(Record { kind, offset: offset + RECORD_HEADER_BYTES, content })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;
    fn next(&mut self) -> Option<Record<'a>> {
        let begin = self.end;
        let (offset, record) = (begin..self.data.len()).find_map(|offset| Some((offset, self.at(offset)?)))?;
        self.corrupt += u64::from(offset > begin);
        self.end = record.offset + record.content.len();
        Some(record)
    }
}
