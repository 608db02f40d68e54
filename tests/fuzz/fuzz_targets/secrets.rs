#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvconn_fuzz_targets::secrets(data));
