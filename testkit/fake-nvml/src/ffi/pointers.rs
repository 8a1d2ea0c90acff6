//! Pointers from the caller. The only place that dereferences them.
//!
//! NVML's contract is what makes these sound: a pointer that is not null points to memory that the caller owns, that
//! is initialised where NVML reads it, and that nobody else uses during the call. A null pointer is never followed.

use std::ffi::{CStr, c_char};

use crate::code::{Answer, Code};

/// A pointer to one `T`, or to the first of several.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

/// A C string from the caller.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Text(*const c_char);

impl<T: Copy> Out<T> {
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes `value`.
    pub(super) fn set(self, value: T) -> Answer<()> {
        if self.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by NVML's contract it points to a T of the caller that may be written.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// What the caller put there.
    pub(super) fn get(self) -> Answer<T> {
        if self.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by NVML's contract it points to an initialised T of the caller.
        Ok(unsafe { self.0.read() })
    }

    /// The caller's array of `length` elements.
    pub(super) fn array(&mut self, length: usize) -> Answer<&mut [T]> {
        if self.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by NVML's contract it points to `length` initialised elements that only this call uses.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0, length) })
    }

    /// Writes all `values` one after the other; the caller has made sure that the array is long enough.
    pub(super) fn fill(self, values: impl IntoIterator<Item = T>) -> Answer<()> {
        if self.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        for (place, value) in values.into_iter().enumerate() {
            // SAFETY: not null, and `place` is within the length that the caller of the C function declared.
            unsafe { self.0.add(place).write(value) };
        }
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes a C string into a buffer of `length` bytes.
    pub(super) fn text(self, length: u32, text: &str) -> Answer<()> {
        if text.len() >= length as usize {
            return Err(if self.is_null() {
                Code::INVALID_ARGUMENT
            } else {
                Code::INSUFFICIENT_SIZE
            });
        }
        self.fill(text.bytes().chain([0]).map(|byte| c_char::from_ne_bytes([byte])))
    }
}

impl Text {
    /// The string as UTF-8.
    pub(super) fn read<'a>(self) -> Answer<&'a str> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so by NVML's contract it is a NUL-terminated string that outlives the call.
        unsafe { CStr::from_ptr(self.0) }
            .to_str()
            .map_err(|_| Code::INVALID_ARGUMENT)
    }
}

impl<T> Out<T> {
    /// The same pointer to another type, for a member of a structure that is itself a pointer.
    pub(super) fn from_raw(pointer: *mut T) -> Self {
        Self(pointer)
    }
}
