//! Bytes of `golden/v1` decode for ever, to the same values. A file there is written once and never edited; how each
//! was made is told beside its test.

use prost::Message;
use veghe_wire::ack::{self, Ack, Hold, HoldCause, MessageError, Presence, Refusal};
use veghe_wire::batch::{
    Batch, Cycle, Decoder, Dictionary, Layout, MAX_CYCLES, PayloadError, SeriesDefinition, append_frame,
};
use veghe_wire::remote::{Finding, Findings, Label, Offer, Reason, Report};
use veghe_wire::{MAJOR, MAX_BATCH_BYTES, MINOR};

const STALE: u64 = 0x7ff0_0000_0000_0002;

fn dictionary() -> Dictionary {
    let words =
        ["__name__", "node_load1", "node_filesystem_avail_bytes", "mountpoint", "/", "device", "/dev/mapper/ștampilă"];
    Dictionary {
        strings: words.map(str::to_owned).to_vec(),
        first_series: 0,
        series: vec![SeriesDefinition { labels: vec![0, 1] }, SeriesDefinition { labels: vec![0, 2, 5, 6, 3, 4] }],
        first_layout: 0,
        layouts: vec![Layout { series: vec![0] }, Layout { series: vec![1] }],
    }
}

fn batch() -> Batch {
    let cycle = |layout, value: f64| Cycle { timestamp_ms: 1_763_900_015_000, layout, values: vec![value] };
    Batch {
        minor: 0,
        spool_id: 0x0123_4567_89ab_cdef,
        sequence: 42,
        oldest_sequence: 40,
        dictionary: Some(dictionary()),
        cycles: vec![cycle(0, 0.25), cycle(1, f64::from_bits(STALE))],
    }
}

fn ack() -> Ack {
    let hold = |sequence, cause: HoldCause, reason: &str| Hold {
        sequence,
        cause: cause as i32,
        reason: reason.to_owned(),
        retry_after_ms: 5000,
    };
    Ack {
        minor: 0,
        spool_id: 0x0123_4567_89ab_cdef,
        accepted: vec![1, 2, 300],
        refused: vec![Refusal { sequence: 4, reason: "series 7 has no name".to_owned() }],
        held: vec![
            hold(5, HoldCause::Unavailable, "disk is full"),
            hold(6, HoldCause::Dictionary, "layout 3 is not known"),
        ],
    }
}

fn presence() -> Presence {
    Presence {
        online: true,
        version: "0.1.0".to_owned(),
        spool_id: 0x0123_4567_89ab_cdef,
        interval_ms: 15_000,
        protocol: "1.0".to_owned(),
    }
}

fn in_two_frames() -> Vec<u8> {
    let whole = batch();
    let front = Batch { oldest_sequence: 40, dictionary: whole.dictionary.clone(), ..Batch::default() };
    let mut payload = Vec::new();
    append_frame(&mut payload, &front).expect("compress");
    append_frame(&mut payload, &Batch { oldest_sequence: 0, dictionary: None, ..whole }).expect("compress");
    payload
}

/// NaN is not equal to itself; its bits are what counts.
fn bits(batch: &Batch) -> (Batch, Vec<u64>) {
    let values = batch.cycles.iter().flat_map(|cycle| cycle.values.iter().map(|value| value.to_bits())).collect();
    let mut rest = batch.clone();
    rest.cycles.iter_mut().for_each(|cycle| cycle.values.clear());
    (rest, values)
}

fn decode(payload: &[u8]) -> Result<Batch, PayloadError> {
    Decoder::new().expect("decoder").decode(payload)
}

/// The file, made from `now` if it is not there: only ever once, by whoever adds a new one.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name);
    if std::env::var_os("VEGHE_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, now).expect("write");
    }
    std::fs::read(&path).expect("golden bytes are there")
}

#[test]
fn a_batch_with_its_dictionary_decodes_for_ever() {
    let mut payload = Vec::new();
    append_frame(&mut payload, &batch()).expect("compress");
    let decoded = decode(&golden("batch-with-dictionary.bin", &payload)).expect("decode");
    assert_eq!(bits(&decoded), bits(&batch()));
}

#[test]
fn a_batch_in_two_frames_decodes_for_ever() {
    let decoded = decode(&golden("batch-in-two-frames.bin", &in_two_frames())).expect("decode");
    assert_eq!(bits(&decoded), bits(&batch()));
}

#[test]
fn an_acknowledgement_decodes_for_ever() {
    assert_eq!(ack::decode::<Ack>(&golden("ack.bin", &ack::encode(&ack()))).expect("decode"), ack());
}

#[test]
fn presence_decodes_for_ever() {
    let bytes = golden("presence.bin", &ack::encode(&presence()));
    assert_eq!(ack::decode::<Presence>(&bytes).expect("decode"), presence());
}

#[test]
fn an_offer_of_settings_decodes_for_ever() {
    let offer = Offer {
        minor: 1,
        number: 7,
        hash: "5b6f2ef0".to_owned(),
        settings: "interval: 30s\nsensors:\n  netdev: {ignore: [veth*]}\n".to_owned(),
    };
    assert_eq!(ack::decode::<Offer>(&golden("offer.bin", &ack::encode(&offer))).expect("decode"), offer);
}

#[test]
fn a_report_on_settings_decodes_for_ever() {
    let report = Report {
        minor: 1,
        number: 6,
        hash: "11aa".to_owned(),
        on_trial: true,
        refused_number: 7,
        refused_hash: "5b6f2ef0".to_owned(),
        reasons: vec![Reason { line: 2, key: "sensors.netdevv".to_owned(), message: "is not known".to_owned() }],
        labels: vec![Label { name: "site".to_owned(), value: "Timișoara".to_owned() }],
        failing: vec!["scrapes".to_owned()],
    };
    assert_eq!(ack::decode::<Report>(&golden("report.bin", &ack::encode(&report))).expect("decode"), report);
}

#[test]
fn findings_decode_for_ever() {
    let found = Finding {
        kind: "exporter".to_owned(),
        name: "127.0.0.1:9187".to_owned(),
        detail: "PostgreSQL".to_owned(),
        settings: "sensors: {}".to_owned(),
    };
    let findings = Findings { minor: 1, looked_ms: 1_763_900_015_000, found: vec![found] };
    assert_eq!(ack::decode::<Findings>(&golden("findings.bin", &ack::encode(&findings))).expect("decode"), findings);
}

/// A batch as a newer minor version might send it.
#[derive(Clone, PartialEq, Message)]
struct NewerBatch {
    #[prost(uint32, tag = "1")]
    minor: u32,
    #[prost(fixed64, tag = "2")]
    spool_id: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(message, repeated, tag = "6")]
    cycles: Vec<NewerCycle>,
    #[prost(string, tag = "7")]
    events: String,
    #[prost(fixed32, tag = "900")]
    far: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NewerCycle {
    #[prost(sint64, tag = "1")]
    timestamp_ms: i64,
    #[prost(uint32, tag = "2")]
    layout: u32,
    #[prost(double, repeated, tag = "3")]
    values: Vec<f64>,
    #[prost(bytes, tag = "4")]
    exemplars: Vec<u8>,
}

#[test]
fn a_newer_minor_version_with_unknown_fields_decodes() {
    let cycle = NewerCycle { timestamp_ms: 7, layout: 1, values: vec![2.0], exemplars: vec![9; 30] };
    let newer =
        NewerBatch { minor: MINOR + 5, spool_id: 3, sequence: 1, cycles: vec![cycle], events: "x".into(), far: 1 };
    let frame = zstd::bulk::compress(&newer.encode_to_vec(), 1).expect("compress");
    let decoded = decode(&[&[MAJOR][..], &frame].concat()).expect("decode");
    assert_eq!((decoded.minor, decoded.spool_id, decoded.cycles[0].values[0]), (MINOR + 5, 3, 2.0));
}

#[test]
fn another_major_version_is_refused_with_both_numbers() {
    let mut payload = golden("batch-with-dictionary.bin", &[]);
    payload[0] = MAJOR + 1;
    let error = decode(&payload).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "payload has protocol major version 2, this program speaks 1; update the older of the two"
    );
    let error = ack::decode::<Ack>(&[MAJOR + 1, 0]).expect_err("refused");
    assert!(matches!(error, MessageError::Major { given: 2 }));
}

#[test]
fn every_cut_of_a_batch_is_an_error_and_no_panic() {
    for payload in [golden("batch-with-dictionary.bin", &[]), golden("batch-in-two-frames.bin", &[])] {
        let whole = bits(&decode(&payload).expect("decode"));
        for cut in 0..payload.len() {
            // A cut between two frames leaves one that is whole.
            if let Ok(part) = decode(&payload[..cut]) {
                assert_ne!(bits(&part), whole, "cut at {cut}");
            }
        }
    }
}

#[test]
fn a_small_payload_that_grows_large_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; MAX_BATCH_BYTES + 1], 1).expect("compress");
    assert!(bomb.len() < 2000);
    assert!(matches!(decode(&[&[MAJOR][..], &bomb].concat()), Err(PayloadError::Decompress { .. })));
    // Many frames, each small enough.
    let frame = zstd::bulk::compress(&vec![0; MAX_BATCH_BYTES / 2 + 1], 1).expect("compress");
    assert!(matches!(decode(&[&[MAJOR][..], &frame, &frame].concat()), Err(PayloadError::Decompress { .. })));
}

#[test]
fn a_payload_of_countless_empty_parts_is_refused_before_it_takes_memory() {
    let cycles = [0x32, 0x00].repeat(MAX_CYCLES + 1);
    let frame = zstd::bulk::compress(&cycles, 1).expect("compress");
    assert!(matches!(decode(&[&[MAJOR][..], &frame].concat()), Err(PayloadError::Excess)));
    let strings = Dictionary { strings: vec![String::new(); 3_000_000], ..Dictionary::default() };
    let mut payload = Vec::new();
    append_frame(&mut payload, &Batch { dictionary: Some(strings), ..Batch::default() }).expect("compress");
    assert!(payload.len() < 20_000);
    assert!(matches!(decode(&payload), Err(PayloadError::Excess)));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_dictionary()(strings in prop::collection::vec(".{0,8}", 0..6), first_series in any::<u32>(),
            series in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..5), 0..4), first_layout in any::<u32>(),
            layouts in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..5), 0..4)) -> Dictionary {
            Dictionary {
                strings, first_series, first_layout,
                series: series.into_iter().map(|labels| SeriesDefinition { labels }).collect(),
                layouts: layouts.into_iter().map(|series| Layout { series }).collect(),
            }
        }
    }

    prop_compose! {
        fn any_batch()(minor in any::<u32>(), spool_id in any::<u64>(), sequence in any::<u64>(), oldest_sequence in any::<u64>(),
            dictionary in prop::option::of(any_dictionary()),
            cycles in prop::collection::vec((any::<i64>(), any::<u32>(), prop::collection::vec(any::<u64>(), 0..9)), 0..4)) -> Batch {
            let cycle = |(timestamp_ms, layout, values): (i64, u32, Vec<u64>)| Cycle {
                timestamp_ms, layout, values: values.into_iter().map(f64::from_bits).collect(),
            };
            Batch { minor, spool_id, sequence, oldest_sequence, dictionary, cycles: cycles.into_iter().map(cycle).collect() }
        }
    }

    proptest! {
        #[test]
        fn every_batch_reads_back_bit_for_bit(batch in any_batch()) {
            let mut payload = Vec::new();
            append_frame(&mut payload, &batch).expect("compress");
            prop_assert_eq!(bits(&decode(&payload).expect("decode")), bits(&batch));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
            let body = if framed { zstd::bulk::compress(&bytes, 1).expect("compress") } else { bytes.clone() };
            let _batch = decode(&[&[MAJOR][..], &body].concat());
            let _ack = ack::decode::<Ack>(&[&[MAJOR][..], &bytes].concat());
            let _presence = ack::decode::<Presence>(&[&[MAJOR][..], &bytes].concat());
        }

        #[test]
        fn every_acknowledgement_reads_back(spool_id in any::<u64>(), accepted in prop::collection::vec(any::<u64>(), 0..20), reason in ".{0,20}") {
            let ack = Ack { spool_id, accepted, refused: vec![Refusal { sequence: 1, reason }], ..Ack::default() };
            prop_assert_eq!(ack::decode::<Ack>(&ack::encode(&ack)).expect("decode"), ack);
        }
    }
}
