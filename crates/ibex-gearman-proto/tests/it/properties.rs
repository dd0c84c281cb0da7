//! parse∘encode is the identity; any split of a stream gives the same messages; any prefix needs more or is an error.

use bytes::Bytes;
use ibex_gearman_proto::{
    Decoder, Grab, Incoming, Mode, Priority, Request, Response, Step, Submit, decode_response,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Owned arguments of one request; `shape` chooses the variant.
#[derive(Debug, Clone)]
struct Parts {
    shape: u8,
    names: [Vec<u8>; 7],
    data: Vec<u8>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255u8, 0..20)
}

fn parts() -> impl Strategy<Value = Parts> {
    (
        any::<u8>(),
        [name(), name(), name(), name(), name(), name(), name()],
        vec(any::<u8>(), 0..200),
    )
        .prop_map(|(shape, names, data)| Parts { shape, names, data })
}

impl Parts {
    fn request(&self) -> Request<'_> {
        let [a, b, c, d, e, f, g] = &self.names;
        let data = &self.data[..];
        let submit = Submit::new(a, b, data);
        match self.shape % 33 {
            0 => Request::CanDo { function: a },
            1 => Request::CanDoTimeout {
                function: a,
                timeout: b,
            },
            2 => Request::CantDo { function: a },
            3 => Request::ResetAbilities,
            4 => Request::PreSleep,
            5 => Request::Submit(submit),
            6 => Request::Submit(submit.priority(Priority::High)),
            7 => Request::Submit(submit.priority(Priority::Low)),
            8 => Request::Submit(submit.background()),
            9 => Request::Submit(submit.background().priority(Priority::High)),
            10 => Request::Submit(submit.background().priority(Priority::Low)),
            11 => Request::Submit(Submit {
                epoch: Some(c),
                ..submit.background()
            }),
            12 => Request::Submit(Submit {
                schedule: Some([c, d, e, f, g]),
                ..submit.background()
            }),
            13 => Request::Submit(Submit {
                reducer: Some([c, d]),
                ..submit
            }),
            14 => Request::Submit(Submit {
                reducer: Some([c, d]),
                mode: Mode::Background,
                ..submit
            }),
            15 => Request::GrabJob(Grab::Plain),
            16 => Request::GrabJob(Grab::Unique),
            17 => Request::GrabJob(Grab::All),
            18 => Request::WorkStatus {
                handle: a,
                numerator: b,
                denominator: c,
            },
            19 => Request::WorkComplete { handle: a, data },
            20 => Request::WorkFail { handle: a },
            21 => Request::WorkException { handle: a, data },
            22 => Request::WorkData { handle: a, data },
            23 => Request::WorkWarning { handle: a, data },
            24 => Request::GetStatus { handle: a },
            25 => Request::GetStatusUnique { unique: a },
            26 => Request::Echo { data },
            27 => Request::SetClientId { id: a },
            28 => Request::AllYours,
            29 => Request::Option { name: a },
            30 => Request::Attach { handle: a },
            31 => Request::Nack {
                handle: a,
                delay: b,
                data,
            },
            _ => Request::Touch { handle: a },
        }
    }

    fn response(&self) -> Response<Bytes> {
        let [handle, function, unique, reducer, ..] = self.names.clone().map(Bytes::from);
        let data = Bytes::from(self.data.clone());
        let (known, running) = (self.shape & 1 == 1, self.shape & 2 == 2);
        match self.shape % 17 {
            0 => Response::Noop,
            1 => Response::JobCreated { handle },
            2 => Response::NoJob,
            3 => Response::JobAssign {
                handle,
                function,
                workload: data,
            },
            4 => Response::JobAssignUnique {
                handle,
                function,
                unique,
                workload: data,
            },
            5 => Response::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload: data,
            },
            6 => Response::WorkStatus {
                handle,
                numerator: function,
                denominator: unique,
            },
            7 => Response::WorkComplete { handle, data },
            8 => Response::WorkFail { handle },
            9 => Response::WorkException { handle, data },
            10 => Response::WorkData { handle, data },
            11 => Response::WorkWarning { handle, data },
            12 => Response::Echo { data },
            13 => Response::Error {
                code: function,
                text: unique,
            },
            14 => Response::Status {
                handle,
                known,
                running,
                numerator: self.shape.into(),
                denominator: u32::MAX,
            },
            15 => Response::StatusUnique {
                unique,
                known,
                running,
                numerator: 0,
                denominator: self.shape.into(),
                clients: 7,
            },
            _ => Response::Option { name: function },
        }
    }
}

/// Feeds `stream` cut at `cuts`, as a connection would, and returns how each message reads; `Err` in the list ends it.
fn feed(stream: &[u8], cuts: &[usize]) -> Vec<String> {
    let decoder = Decoder::new(1 << 16);
    let (mut seen, mut unread, mut from) = (Vec::new(), Vec::new(), 0);
    let ends = cuts
        .iter()
        .map(|c| c % (stream.len() + 1))
        .chain([stream.len()]);
    for end in ends {
        if end < from {
            continue;
        }
        unread.extend_from_slice(&stream[from..end]);
        from = end;
        loop {
            match decoder.parse(&unread) {
                Ok(Step::Need(bytes)) => {
                    assert!(bytes > unread.len(), "Need says how many bytes in all");
                    break;
                }
                Ok(Step::Frame { message, consumed }) => {
                    seen.push(format!("{message:?}"));
                    unread.drain(..consumed);
                }
                Err(error) => {
                    seen.push(format!("{error:?}"));
                    return seen;
                }
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn requests_come_back(parts in parts()) {
        let request = parts.request();
        let mut wire = Vec::new();
        request.encode(&mut wire);
        let expected = Step::Frame { message: Incoming::Request(request), consumed: wire.len() };
        prop_assert_eq!(Decoder::default().parse(&wire), Ok(expected));
        for end in 0..wire.len() {
            let Ok(Step::Need(bytes)) = Decoder::default().parse(&wire[..end]) else { panic!("a prefix of {end} bytes is no message") };
            prop_assert!(bytes > end && bytes <= wire.len());
        }
    }

    #[test]
    fn responses_come_back(parts in parts()) {
        let response = parts.response();
        let mut wire = Vec::new();
        response.encode(&mut wire);
        let frame = Bytes::from(wire);
        let Ok(Step::Frame { message, consumed }) = decode_response(&frame, 1 << 16) else { panic!("a whole frame") };
        prop_assert_eq!(consumed, frame.len());
        prop_assert_eq!(message.map(|part| frame.slice_ref(part)), response);
        for end in 0..frame.len() {
            let Ok(Step::Need(bytes)) = decode_response(&frame[..end], 1 << 16) else { panic!("a prefix of {end} bytes is no message") };
            prop_assert!(bytes > end && bytes <= frame.len());
        }
    }

    #[test]
    fn any_split_gives_the_same_messages(
        messages in vec((parts(), prop::option::of("[a-z ]{0,20}\r?\n")), 1..8),
        cuts in vec(any::<usize>(), 0..12),
        noise in vec(any::<u8>(), 0..40),
    ) {
        let mut stream = Vec::new();
        for (parts, line) in &messages {
            parts.request().encode(&mut stream);
            if let Some(line) = line {
                stream.extend_from_slice(line.as_bytes());
            }
        }
        stream.extend_from_slice(&noise);
        let mut cuts = cuts;
        cuts.sort_by_key(|c| c % (stream.len() + 1));
        let whole = feed(&stream, &[]);
        prop_assert_eq!(&feed(&stream, &cuts), &whole);
        let every_byte: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&feed(&stream, &every_byte), &whole);
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..300)) {
        feed(&noise, &[]);
        let mut framed = b"\0REQ".to_vec();
        framed.extend_from_slice(&noise);
        feed(&framed, &[]);
        framed[..4].copy_from_slice(b"\0RES");
        drop(decode_response(&framed, 1 << 16));
    }
}
