//! Known answers, made by the Go programs: files, checksums and WAL bytes.

use crate::common::{ENCODINGS, Pages, header, hex, page, pgno, range, read, size, write};
use replicate_format::{
    Decoder, Encoder, FLAG_NO_CHECKSUM, FrameChain, Header, PageEncoding, PageIndex, RollingChecksum, Salts, Trailer,
    WalHeader, crc64, decode_page_frame, encode_page_frame, page_checksum, tail_needed,
};

const V1: &str = include_str!("vectors/v1_block.hex");
const V2: &str = include_str!("vectors/v2_frame.hex");
const V3: &str = include_str!("vectors/v3_deleted.hex");

fn expected_header() -> Header {
    Header {
        flags: FLAG_NO_CHECKSUM,
        page_size: size(512),
        commit: 3,
        txids: range(7, 7),
        timestamp_ms: 1_700_000_000_123,
        pre_apply_checksum: 0,
        wal_offset: 32,
        wal_size: 536,
        wal_salt1: 0x1122_3344,
        wal_salt2: 0x5566_7788,
        node_id: 0,
    }
}

/// The page frame of a one-page file.
fn frame_of(file: &[u8]) -> &[u8] {
    let index = PageIndex::decode(file, file.len() as u64).expect("an index");
    let entry = index.iter().next().expect("a page");
    &file[entry.offset as usize..(entry.offset + entry.size) as usize]
}

#[test]
fn files_of_both_encodings_decode_to_the_same_header_and_page() {
    for (text, len, checksum) in [(V1, 168, 0xa07b_841b_9532_cbf6), (V2, 183, 0xf69c_4121_5256_1952)] {
        let file = hex(text);
        assert_eq!(file.len(), len);
        let (header, pages, trailer) = read(&file).expect("a valid file");
        assert_eq!(header, expected_header());
        assert_eq!(pages, Pages::from([(3, vec![b'A'; 512])]));
        assert_eq!(trailer, Trailer { post_apply_checksum: 0, file_checksum: checksum });
        assert_eq!(header.encode(), file[..100]);
    }
}

#[test]
fn the_index_of_both_files_finds_the_page() {
    for text in [V1, V2] {
        let file = hex(text);
        let needed = tail_needed(&file[file.len() - 24..], file.len() as u64).expect("a size");
        let tail = &file[file.len() - needed as usize..];
        let index = PageIndex::decode(tail, file.len() as u64).expect("an index");
        index.validate(&expected_header()).expect("fits the header");
        assert_eq!(index.len(), 1);
        let mut page = vec![0; 512];
        assert_eq!(decode_page_frame(frame_of(&file), size(512), &mut page).expect("a page"), pgno(3));
        assert_eq!(page, [b'A'; 512]);
        assert_eq!(index.get(pgno(3)).map(|e| e.offset), Some(100));
        assert_eq!(index.get(pgno(2)), None);
    }
}

#[test]
fn a_file_made_from_its_own_packed_page_is_identical() {
    for (text, encoding) in [(V1, PageEncoding::Block), (V2, PageEncoding::Frame)] {
        let file = hex(text);
        let mut encoder = Encoder::new(Vec::new(), expected_header(), encoding).expect("a header");
        encoder.page_encoded(pgno(3), &[b'A'; 512], frame_of(&file)).expect("a page");
        let (encoded, written) = encoder.finish().expect("a file");
        assert_eq!(written, file);
        assert_eq!(encoded.size, file.len() as u64);
        assert_eq!(encoded.pages, 1);
    }
}

#[test]
fn around_the_block_our_frame_has_the_very_bytes_of_the_golden_one() {
    let golden = hex(V2);
    let golden = frame_of(&golden);
    let mut ours = Vec::new();
    encode_page_frame(pgno(3), &[b'A'; 512], PageEncoding::Frame, &mut ours).expect("a page");
    assert_eq!(ours[..13], golden[..13]);
    assert_eq!(ours[ours.len() - 8..], golden[golden.len() - 8..]);
}

#[test]
fn a_tracked_deletion_file_is_read_and_written_to_the_byte() {
    let file = hex(V3);
    let expected =
        Header { flags: 0, pre_apply_checksum: 0x8000_0000_0000_0005, timestamp_ms: 2000, ..header(512, 0, 5, 6) };
    let (found, pages, trailer) = read(&file).expect("a valid file");
    assert_eq!((found, pages.len()), (expected, 0));
    assert_eq!(trailer.post_apply_checksum, 1 << 63);
    assert_eq!(trailer.file_checksum, 0x8607_f382_2a63_9f7f);
    for encoding in ENCODINGS {
        let mut encoder = Encoder::new(Vec::new(), expected, encoding).expect("a header");
        encoder.set_post_apply_checksum(1 << 63);
        assert_eq!(encoder.finish().expect("a file").1, file);
    }
    let index = PageIndex::decode(&file, file.len() as u64).expect("an index");
    assert!(index.is_empty());
    index.validate(&expected).expect("fits the header");
}

#[test]
fn reserved_header_bytes_may_hold_anything_but_are_covered() {
    let mut file = hex(V1);
    file[90] = 1;
    let error = Decoder::new(file.as_slice()).expect("the header is read").finish().expect_err("checksum");
    assert!(error.to_string().contains("ltx file checksum"), "{error}");
}

#[test]
fn crc_64_known_answers() {
    assert_eq!(crc64(b""), 0);
    assert_eq!(crc64(&[0]), 0x6f90_0000_0000_0000);
    assert_eq!(crc64(b"123456789"), 0xb909_56c7_75a4_1001);
}

#[test]
fn page_checksum_known_answers() {
    let sevens: Vec<u8> = (0..512_u32).map(|i| (i * 7 % 251) as u8).collect();
    let known: [(u32, &[u8], u64); 8] = [
        (1, &[0; 512], 0xefb1_f44f_ecd9_9000),
        (1, &[b'A'; 512], 0xe1b3_111a_b98c_c555),
        (1, &sevens, 0xb55b_8682_1617_ff1f),
        (1, &[0; 4096], 0xd932_8f59_2d9e_733d),
        (2, &[0; 4096], 0xf790_1e47_304c_a33f),
        (1, &[0xff; 4096], 0xbce2_dc0a_bd0e_73ad),
        (262_144, &[0; 4096], 0x98a9_e9d5_1af8_11fa),
        (262_146, &[0; 4096], 0xc395_083e_f39b_71f9),
    ];
    for (n, page, checksum) in known {
        assert_eq!(page_checksum(pgno(n), page), checksum, "page {n}");
    }
}

#[test]
fn rolling_checksum_known_answers() {
    let mut rolling = RollingChecksum::new(size(4096));
    for (n, value) in [(1, 0xd932_8f59_2d9e_733d), (2, 0xaea2_911e_1dd2_d002), (3, 0xacac_ffac_d92f_c33c)] {
        rolling.toggle(pgno(n), &[0; 4096]);
        assert_eq!(rolling.value(), value);
    }
    let sevens: Vec<u8> = (0..512_u32).map(|i| (i * 7 % 251) as u8).collect();
    let mut rolling = RollingChecksum::new(size(512));
    rolling.toggle(pgno(1), &[b'A'; 512]);
    rolling.toggle(pgno(2), &sevens);
    assert_eq!(rolling.value(), 0xd43a_8b48_af9b_3a4a);
}

#[test]
fn pages_pack_at_least_as_well_as_those_of_litestream() {
    let known = [
        (512, 0, 34, 49),
        (512, 2, 525, 537),
        (4096, 0, 48, 63),
        (4096, 2, 4124, 4121),
        (65536, 0, 289, 304),
        (65536, 2, 65804, 65561),
    ];
    for (len, kind, block, frame) in known {
        for (encoding, most) in [(PageEncoding::Block, block), (PageEncoding::Frame, frame)] {
            let mut out = Vec::new();
            encode_page_frame(pgno(1), &page(len, 5, kind), encoding, &mut out).expect("a page");
            assert!(out.len() <= most, "{len} {kind} {encoding:?}: {}", out.len());
        }
    }
    let stored = write(header(4096, 1, 2, 2), PageEncoding::Frame, &Pages::from([(1, page(4096, 5, 2))]));
    assert_eq!(frame_of(&stored.expect("a file").1).len(), 4121, "stored as it is");
}

#[test]
fn wal_bytes_of_both_orders_are_read_and_written() {
    let known = [
        (
            false,
            "377f0682002de2180000020000000000112233445566778818fe2524594f631e",
            "0000000100000001112233445566778888cb347b79b1beb0",
        ),
        (
            true,
            "377f0683002de218000002000000000011223344556677882726fe1b23664f5c",
            "00000001000000011122334455667788560d0ca261df5888",
        ),
    ];
    let salts = Salts { salt1: 0x1122_3344, salt2: 0x5566_7788 };
    for (big_endian, head, frame) in known {
        let made = WalHeader::new(big_endian, size(512), 0, salts);
        assert_eq!(made.encode().to_vec(), hex(head));
        assert_eq!(WalHeader::decode(&hex(head)).expect("a wal"), Some(made));

        let mut bytes = hex(frame);
        bytes.extend([b'A'; 512]);
        let mut chain = FrameChain::new(&made);
        let read = chain.push(&bytes).expect("it continues the chain");
        assert_eq!((read.header.pgno, read.header.commit, read.page), (pgno(1), 1, &[b'A'; 512][..]));
        let mut writer = FrameChain::new(&made);
        assert_eq!(writer.append(pgno(1), 1, &[b'A'; 512]).encode().to_vec(), hex(frame));
        assert_eq!(writer, chain);
    }
}

#[test]
fn wal_checksum_known_answer() {
    let bytes = hex("377f0682 002de218 00001000 00000000 52382eac 857b1a4e");
    let expected = (0x8115_3b65, 0x8717_8e8f);
    assert_eq!(replicate_format::wal_checksum(false, (0, 0), &bytes), expected);
}
