//! Messages of version 2c, and what they carry in every version.

use super::ber::{self, BerError, INTEGER, NULL, OBJECT_ID, OCTET_STRING, Reader, SEQUENCE, Writer};
use super::oid::Oid;

const IP_ADDRESS: u8 = 0x40;
const COUNTER32: u8 = 0x41;
const GAUGE32: u8 = 0x42;
const TIME_TICKS: u8 = 0x43;
const OPAQUE: u8 = 0x44;
const COUNTER64: u8 = 0x46;
const NO_SUCH_OBJECT: u8 = 0x80;
const NO_SUCH_INSTANCE: u8 = 0x81;
const END_OF_MIB_VIEW: u8 = 0x82;
/// The number that stands for version 2c in a message.
const VERSION_2C: i64 = 1;
/// More values in one message are refused; a packet of 64 KiB holds fewer.
const MAX_VALUES: usize = 10_000;

/// What a name has.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A signed number.
    Integer(i64),
    /// Bytes: a text, an address, bits.
    Octets(Vec<u8>),
    /// Another name.
    ObjectId(Oid),
    /// An IPv4 address.
    IpAddress([u8; 4]),
    /// A counter of 32 bits.
    Counter32(u32),
    /// A number that goes up and down.
    Gauge32(u32),
    /// Hundredths of a second.
    TimeTicks(u32),
    /// A counter of 64 bits.
    Counter64(u64),
    /// A number with a point, which Net-SNMP wraps into an opaque value.
    Float(f64),
    /// Other opaque bytes.
    Opaque(Vec<u8>),
    /// Nothing: as in a request.
    Null,
    /// There is no such object, or not for this row.
    Missing,
    /// The walk is at its end.
    EndOfMibView,
}

impl Value {
    /// As a number, where it is one. A counter of 64 bits begins anew at 2^53, up to which a float has every whole number:
    /// a counter that loses its lower bits has no rate.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Counter32(number) | Self::Gauge32(number) | Self::TimeTicks(number) => Some(f64::from(*number)),
            Self::Counter64(number) => Some((*number % (1 << 53)) as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, BerError> {
        let (tag, content) = reader.any()?;
        let bytes = content.rest();
        // Some devices send more bits than the type has; the lower ones count, as for others.
        let lower = |bytes| ber::unsigned(bytes).map(|number| number as u32);
        Ok(match tag {
            INTEGER => Self::Integer(ber::signed(bytes)?),
            OCTET_STRING => Self::Octets(bytes.to_owned()),
            NULL => Self::Null,
            OBJECT_ID => Self::ObjectId(ber::object_id(bytes)?),
            IP_ADDRESS => Self::IpAddress(bytes.try_into().or(Err(BerError::Length))?),
            COUNTER32 => Self::Counter32(lower(bytes)?),
            GAUGE32 => Self::Gauge32(lower(bytes)?),
            TIME_TICKS => Self::TimeTicks(lower(bytes)?),
            COUNTER64 => Self::Counter64(ber::unsigned(bytes)?),
            OPAQUE => match bytes {
                [0x9f, 0x78, 4, float @ ..] if float.len() == 4 => {
                    Self::Float(f64::from(f32::from_be_bytes(float.try_into().or(Err(BerError::Length))?)))
                }
                [0x9f, 0x79, 8, double @ ..] if double.len() == 8 => {
                    Self::Float(f64::from_be_bytes(double.try_into().or(Err(BerError::Length))?))
                }
                _ => Self::Opaque(bytes.to_owned()),
            },
            NO_SUCH_OBJECT | NO_SUCH_INSTANCE => Self::Missing,
            END_OF_MIB_VIEW => Self::EndOfMibView,
            found => return Err(BerError::Type { found, expected: NULL }),
        })
    }

    fn write(&self, writer: &mut Writer) {
        let mut unsigned = |tag, number: u64| {
            let bytes = number.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count().min(7);
            let bytes = bytes.get(skip..).unwrap_or_default();
            let since = writer.len();
            writer.raw(bytes);
            if bytes.first().is_some_and(|first| first & 0x80 != 0) {
                writer.raw(&[0]);
            }
            writer.wrap(tag, since);
        };
        match self {
            Self::Integer(number) => writer.integer(*number),
            Self::Octets(bytes) => writer.octets(OCTET_STRING, bytes),
            Self::ObjectId(oid) => writer.object_id(oid),
            Self::IpAddress(address) => writer.octets(IP_ADDRESS, address),
            Self::Counter32(number) => unsigned(COUNTER32, u64::from(*number)),
            Self::Gauge32(number) => unsigned(GAUGE32, u64::from(*number)),
            Self::TimeTicks(number) => unsigned(TIME_TICKS, u64::from(*number)),
            Self::Counter64(number) => unsigned(COUNTER64, *number),
            Self::Float(number) => {
                let mut bytes = vec![0x9f, 0x79, 8];
                bytes.extend(number.to_be_bytes());
                writer.octets(OPAQUE, &bytes);
            }
            Self::Opaque(bytes) => writer.octets(OPAQUE, bytes),
            Self::Null => writer.octets(NULL, &[]),
            Self::Missing => writer.octets(NO_SUCH_OBJECT, &[]),
            Self::EndOfMibView => writer.octets(END_OF_MIB_VIEW, &[]),
        }
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PduType {
    /// Asks for values.
    Get,
    /// Asks for the values after these names.
    GetNext,
    /// An answer.
    Response,
    /// Asks for many values after these names.
    GetBulk,
    /// Version 3's answer where the security model has something to say.
    Report,
}

impl PduType {
    fn tag(self) -> u8 {
        match self {
            Self::Get => 0xa0,
            Self::GetNext => 0xa1,
            Self::Response => 0xa2,
            Self::GetBulk => 0xa5,
            Self::Report => 0xa8,
        }
    }
}

/// What a message carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Pdu {
    /// What it is for.
    pub kind: PduType,
    /// Repeated by the answer.
    pub request_id: i32,
    /// Why there is no answer, 0 if there is one; of [`PduType::GetBulk`], how many names are not repeated.
    pub error_status: i32,
    /// Which value the error is about, from 1; of [`PduType::GetBulk`], how often names are repeated.
    pub error_index: i32,
    /// Names and what they have.
    pub values: Vec<(Oid, Value)>,
}

impl Pdu {
    /// A question about `names`.
    pub fn question(kind: PduType, request_id: i32, names: &[Oid]) -> Self {
        let values = names.iter().map(|name| (name.clone(), Value::Null)).collect();
        Self { kind, request_id, error_status: 0, error_index: 0, values }
    }

    /// Asks for up to `repetitions` values after `name`.
    pub fn bulk(request_id: i32, name: &Oid, repetitions: u16) -> Self {
        let question = Self::question(PduType::GetBulk, request_id, std::slice::from_ref(name));
        Self { error_index: i32::from(repetitions), ..question }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, BerError> {
        let (tag, mut content) = reader.any()?;
        let kinds = [PduType::Get, PduType::GetNext, PduType::Response, PduType::GetBulk, PduType::Report];
        let kind = kinds.into_iter().find(|kind| kind.tag() == tag);
        let kind = kind.ok_or(BerError::Type { found: tag, expected: PduType::Response.tag() })?;
        let mut small = || content.integer().and_then(|number| i32::try_from(number).or(Err(BerError::Number)));
        let (request_id, error_status, error_index) = (small()?, small()?, small()?);
        let mut list = content.typed(SEQUENCE)?;
        let mut values = Vec::new();
        while !list.is_empty() {
            if values.len() >= MAX_VALUES {
                return Err(BerError::Length);
            }
            let mut pair = list.typed(SEQUENCE)?;
            let name = ber::object_id(pair.typed(OBJECT_ID)?.rest())?;
            values.push((name, Value::read(&mut pair)?));
            pair.finish()?;
        }
        content.finish()?;
        Ok(Self { kind, request_id, error_status, error_index, values })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let whole = writer.len();
        for (name, value) in self.values.iter().rev() {
            let since = writer.len();
            value.write(writer);
            writer.object_id(name);
            writer.wrap(SEQUENCE, since);
        }
        writer.wrap(SEQUENCE, whole);
        writer.integer(self.error_index.into());
        writer.integer(self.error_status.into());
        writer.integer(self.request_id.into());
        writer.wrap(self.kind.tag(), whole);
    }
}

/// A message of version 2c.
pub fn encode_v2c(community: &[u8], pdu: &Pdu) -> Vec<u8> {
    let mut writer = Writer::default();
    pdu.write(&mut writer);
    writer.octets(OCTET_STRING, community);
    writer.integer(VERSION_2C);
    writer.wrap(SEQUENCE, 0);
    writer.finish()
}

/// Reads a message of version 2c: its community and what it carries.
///
/// # Errors
/// Where it is none.
pub fn decode_v2c(bytes: &[u8]) -> Result<(&[u8], Pdu), BerError> {
    let mut message = Reader::new(bytes).typed(SEQUENCE)?;
    if message.integer()? != VERSION_2C {
        return Err(BerError::Number);
    }
    let community = message.octets()?;
    let pdu = Pdu::read(&mut message)?;
    message.finish()?;
    Ok((community, pdu))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let oid = prop::collection::vec(any::<u32>(), 0..10)
            .prop_map(|rest| Oid::new([vec![1, 3], rest].concat()).expect("a name"));
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Octets),
            oid.prop_map(Value::ObjectId),
            any::<[u8; 4]>().prop_map(Value::IpAddress),
            any::<u32>().prop_map(Value::Counter32),
            any::<u32>().prop_map(Value::Gauge32),
            any::<u32>().prop_map(Value::TimeTicks),
            any::<u64>().prop_map(Value::Counter64),
            (-1e9f64..1e9).prop_map(Value::Float),
            Just(Value::Null),
            Just(Value::Missing),
            Just(Value::EndOfMibView),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back(request_id: i32, values in prop::collection::vec(any_value(), 0..20)) {
            let name: Oid = "1.3.6.1.4.1.6574.2.1.1.13.0".parse().expect("a name");
            let values = values.into_iter().map(|value| (name.clone(), value)).collect();
            let pdu = Pdu { kind: PduType::Response, request_id, error_status: 0, error_index: 0, values };
            let bytes = encode_v2c(b"public", &pdu);
            prop_assert_eq!(decode_v2c(&bytes), Ok((&b"public"[..], pdu)));
            for end in 0..bytes.len() {
                prop_assert!(decode_v2c(&bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn a_float_of_net_snmp_is_a_number() {
        let mut writer = Writer::default();
        writer.octets(OPAQUE, &[0x9f, 0x78, 4, 0x42, 0xc8, 0, 0]);
        let bytes = writer.finish();
        assert_eq!(Value::read(&mut Reader::new(&bytes)).map(|value| value.number()), Ok(Some(100.0)));
    }
}
