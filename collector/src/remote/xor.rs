//! Prometheus' XOR chunks (`tsdb/chunkenc/xor.go`), for who reads samples in them.
//!
//! Invariant: the bytes are those that Prometheus itself would make of the same samples.

/// Samples of one chunk at most, as Prometheus cuts them.
pub(crate) const CHUNK_SAMPLES: usize = 120;

/// The chunk of `times` (milliseconds) and as many `values`, at most 65,535.
pub(crate) fn chunk(times: &[i64], values: &[f64]) -> Vec<u8> {
    let mut bits = Bits { bytes: Vec::with_capacity(2 + 4 * times.len()), free: 0 };
    bits.bytes.extend_from_slice(&(times.len() as u16).to_be_bytes());
    let mut last = (0, 0_i64, 0_u64);
    let mut window = None;
    for (at, (&time, &value)) in times.iter().zip(values).enumerate() {
        let (last_time, last_delta, last_value) = last;
        let value = value.to_bits();
        let delta = match at {
            0 => {
                bits.varint(((time << 1) ^ (time >> 63)) as u64);
                bits.put(value, 64);
                last = (time, 0, value);
                continue;
            }
            1 => {
                let delta = time.wrapping_sub(last_time);
                bits.varint(delta as u64);
                delta
            }
            _ => {
                let delta = time.wrapping_sub(last_time);
                bits.delta_of_delta(delta.wrapping_sub(last_delta));
                delta
            }
        };
        bits.xor(value ^ last_value, &mut window);
        last = (time, delta, value);
    }
    bits.bytes
}

struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not used yet.
    free: u32,
}

impl Bits {
    /// The lowest `count` bits of `value`, the highest of them first.
    fn put(&mut self, value: u64, mut count: u32) {
        while count > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let taken = count.min(self.free);
            let part = (value >> (count - taken)) & ((1 << taken) - 1);
            self.free -= taken;
            count -= taken;
            if let Some(byte) = self.bytes.last_mut() {
                *byte |= (part as u8) << self.free;
            }
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    fn delta_of_delta(&mut self, dod: i64) {
        let fits = |bits: u32| (-((1 << (bits - 1)) - 1)..=1 << (bits - 1)).contains(&dod);
        let (prefix, prefix_bits, bits) = match dod {
            0 => return self.put(0, 1),
            _ if fits(14) => (0b10, 2, 14),
            _ if fits(17) => (0b110, 3, 17),
            _ if fits(20) => (0b1110, 4, 20),
            _ => (0b1111, 4, 64),
        };
        self.put(prefix, prefix_bits);
        self.put(dod as u64, bits);
    }

    /// `window` holds how many leading and trailing zeros the last value that named them had.
    fn xor(&mut self, delta: u64, window: &mut Option<(u32, u32)>) {
        if delta == 0 {
            return self.put(0, 1);
        }
        self.put(1, 1);
        // Five bits hold the number of leading zeros.
        let (leading, trailing) = (delta.leading_zeros().min(31), delta.trailing_zeros());
        if let Some((l, t)) = *window
            && leading >= l
            && trailing >= t
        {
            self.put(0, 1);
            return self.put(delta >> t, 64 - l - t);
        }
        *window = Some((leading, trailing));
        let significant = 64 - leading - trailing;
        self.put(1, 1);
        self.put(u64::from(leading), 5);
        // Six bits: 64 is written as 0, which cannot occur.
        self.put(u64::from(significant), 6);
        self.put(delta >> trailing, significant);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use veghe_model::stale_nan;

    struct Reader<'a>(&'a [u8], u32);

    impl Reader<'_> {
        fn get(&mut self, count: u32) -> u64 {
            let mut value = 0;
            for _ in 0..count {
                value = value << 1 | u64::from(self.0[0] >> (7 - self.1) & 1);
                self.1 = (self.1 + 1) % 8;
                if self.1 == 0 {
                    self.0 = &self.0[1..];
                }
            }
            value
        }

        fn varint(&mut self) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = self.get(8);
                value |= (byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }

        fn signed(&mut self, bits: u32) -> i64 {
            let value = self.get(bits) as i64;
            if bits < 64 && value > 1 << (bits - 1) { value - (1 << bits) } else { value }
        }
    }

    /// The samples of a chunk, by the format's description.
    pub(in crate::remote) fn samples(chunk: &[u8]) -> Vec<(i64, u64)> {
        let count = u16::from_be_bytes([chunk[0], chunk[1]]);
        let mut reader = Reader(&chunk[2..], 0);
        let (mut samples, mut delta, mut window) = (vec![], 0, (0, 0));
        for i in 0..count {
            if i == 0 {
                let time = reader.varint();
                samples.push(((time >> 1) as i64 ^ -((time & 1) as i64), reader.get(64)));
                continue;
            }
            let (time, value): (i64, u64) = samples[usize::from(i) - 1];
            delta = if i == 1 {
                reader.varint() as i64
            } else {
                let mut ones = 0;
                while ones < 4 && reader.get(1) == 1 {
                    ones += 1;
                }
                delta + [0, 14, 17, 20, 64].get(ones).map_or(0, |&bits| if bits == 0 { 0 } else { reader.signed(bits) })
            };
            if reader.get(1) == 0 {
                samples.push((time + delta, value));
                continue;
            }
            if reader.get(1) == 1 {
                let leading = reader.get(5) as u32;
                let significant = reader.get(6) as u32;
                window = (leading, 64 - leading - if significant == 0 { 64 } else { significant });
            }
            samples.push((time + delta, value ^ reader.get(64 - window.0 - window.1) << window.1));
        }
        samples
    }

    #[test]
    fn the_bytes_are_those_of_prometheus() {
        // Chunks of a block that `promtool tsdb create-blocks-from openmetrics` (2.42) made.
        let times: Vec<i64> = vec![1_700_000_000_000, 1_700_000_015_000, 1_700_000_030_001, 1_700_000_045_000];
        let made = chunk(&times, &[1.5, 1.5, 2.25, -0.1]);
        let hex: Vec<String> = made.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.concat(), "000480a0abfef9623ff800000000000098754000e13bffdbffec1fffddcccccccccccd");
    }

    proptest! {
        #[test]
        fn samples_survive(
            first in -4_000_000_000_000_i64..4_000_000_000_000,
            steps in prop::collection::vec((prop_oneof![Just(15_000_i64), 1..100_000_i64, 1..40_000_000_000_i64], any::<u64>(), 0..4_u8), 0..150),
        ) {
            let (mut times, mut values) = (vec![first], vec![f64::from_bits(1)]);
            for (step, bits, kind) in steps {
                times.push(times[times.len() - 1] + step);
                values.push(match kind {
                    0 => f64::from_bits(bits),
                    1 => (bits >> 50) as f64,
                    2 => values[values.len() - 1],
                    _ => stale_nan(),
                });
            }
            let expected: Vec<_> = times.iter().copied().zip(values.iter().map(|v| v.to_bits())).collect();
            prop_assert_eq!(samples(&chunk(&times, &values)), expected);
        }
    }
}
