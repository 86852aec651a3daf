"""DICOM tags that the readers look at, by short names; among them those that may identify a
patient, read by name alone."""

from __future__ import annotations

PIXELS = 0x7FE00010
SOP_CLASS, SOP_INSTANCE, MODALITY, PATIENT_ID = 0x00080016, 0x00080018, 0x00080060, 0x00100020
STUDY, SERIES, FRAME_OF_REFERENCE, INSTANCE = 0x0020000D, 0x0020000E, 0x00200052, 0x00200013
STUDY_DATE, SERIES_DATE, ACQUISITION_DATE, ACQUISITION_DATE_TIME = (
    0x00080020,
    0x00080021,
    0x00080022,
    0x0008002A,
)
IMAGE_TYPE, DESCRIPTION, MAKER, MODEL, BURNT_IN = (
    0x00080008,
    0x0008103E,
    0x00080070,
    0x00081090,
    0x00280301,
)
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, ALLOCATED = (
    0x00280002,
    0x00280004,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280100,
)
POSITION, ORIENTATION, SPACING, THICKNESS, BETWEEN = (
    0x00200032,
    0x00200037,
    0x00280030,
    0x00180050,
    0x00180088,
)
SCANNING_SEQUENCE, SEQUENCE_VARIANT, SEQUENCE_NAME, FLIP = (
    0x00180020,
    0x00180021,
    0x00180024,
    0x00181314,
)
REPETITION_TIME, ECHO_TIME, INVERSION_TIME = 0x00180080, 0x00180081, 0x00180082
AGENT, AGENT_ITEMS, ECHO_PULSE = 0x00180010, 0x00180012, 0x00189008
REFERENCED_SERIES, SHARED, PER_FRAME = 0x00081115, 0x52009229, 0x52009230
PLANE_POSITION, PLANE_ORIENTATION, MEASURES, CONTENT = (
    0x00209113,
    0x00209116,
    0x00289110,
    0x00209111,
)
MR_ECHO, MR_TIMING, MR_MODIFIER, MR_DIFFUSION = 0x00189114, 0x00189112, 0x00189115, 0x00189117
MR_TYPE, CT_TYPE, RECONSTRUCTION, FRAME_TYPE = 0x00189226, 0x00189329, 0x00189314, 0x00089007
STORED, HIGH, SIGNED, PADDING = 0x00280101, 0x00280102, 0x00280103, 0x00280120
INTERCEPT, SLOPE, RESCALE_TYPE, LUT, TRANSFORMATION = (
    0x00281052,
    0x00281053,
    0x00281054,
    0x00283000,
    0x00289145,
)
B_VALUE = 0x00189087
BODY_PART = 0x00180015
SCAN_OPTIONS, ANGIO = 0x00180022, 0x00180025
B_SIEMENS, B_PHILIPS, B_GE = 0x0019100C, 0x20011003, 0x00431039
AGENT_PHASE, AGENT_USAGE = 0x00189344, 0x00189341
REFERENCED_INSTANCES, REFERENCED_SOP, DERIVATION, SOURCE_IMAGES = (
    0x0008114A,
    0x00081155,
    0x00089124,
    0x00082112,
)
RT_FRAMES, RT_STUDIES, RT_SERIES, CONTOUR_IMAGES = 0x30060010, 0x30060012, 0x30060014, 0x30060016
ROIS, ROI_NUMBER, ROI_NAME, ROI_FRAME = 0x30060020, 0x30060022, 0x30060026, 0x30060024
ROI_CONTOURS, REFERENCED_ROI, CONTOURS = 0x30060039, 0x30060084, 0x30060040
CONTOUR_TYPE, CONTOUR_POINTS, CONTOUR_DATA = 0x30060042, 0x30060046, 0x30060050

TRAITS = (
    ("EchoTime", ECHO_TIME),
    ("EchoNumbers", 0x00180086),
    ("ImageType", IMAGE_TYPE),
    ("ConvolutionKernel", 0x00181210),
    ("KVP", 0x00180060),
    ("InversionTime", INVERSION_TIME),
    ("FlipAngle", FLIP),
    ("DiffusionBValue", B_VALUE),
    ("TemporalPositionIdentifier", 0x00200100),
    ("AcquisitionNumber", 0x00200012),
    ("TriggerTime", 0x00181060),
    ("AcquisitionTime", 0x00080032),
    ("ContentTime", 0x00080033),
)
"""What may tell two images of one place apart, surest first."""

IDENTITY = {
    0x00100010: "PatientName",
    0x00100030: "PatientBirthDate",
    0x00100032: "PatientBirthTime",
    0x00100050: "PatientInsurancePlanCodeSequence",
    0x00101000: "OtherPatientIDs",
    0x00101001: "OtherPatientNames",
    0x00101002: "OtherPatientIDsSequence",
    0x00101005: "PatientBirthName",
    0x00101040: "PatientAddress",
    0x00101060: "PatientMotherBirthName",
    0x00101090: "MedicalRecordLocator",
    0x00102154: "PatientTelephoneNumbers",
    0x00102155: "PatientTelecomInformation",
    0x00102297: "ResponsiblePerson",
    0x00104000: "PatientComments",
    0x00080050: "AccessionNumber",
    0x00080080: "InstitutionName",
    0x00080081: "InstitutionAddress",
    0x00080090: "ReferringPhysicianName",
    0x00080092: "ReferringPhysicianAddress",
    0x00080094: "ReferringPhysicianTelephoneNumbers",
    0x00081010: "StationName",
    0x00081040: "InstitutionalDepartmentName",
    0x00081048: "PhysiciansOfRecord",
    0x00081050: "PerformingPhysicianName",
    0x00081060: "NameOfPhysiciansReadingStudy",
    0x00081070: "OperatorsName",
    0x00380010: "AdmissionID",
    0x00321032: "RequestingPhysician",
    0x00400006: "ScheduledPerformingPhysicianName",
    0x00401010: "NamesOfIntendedRecipientsOfResults",
}

WANTED = [
    *(
        SOP_CLASS,
        SOP_INSTANCE,
        MODALITY,
        PATIENT_ID,
        STUDY,
        SERIES,
        FRAME_OF_REFERENCE,
        INSTANCE,
        IMAGE_TYPE,
        DESCRIPTION,
        MAKER,
        MODEL,
    ),
    *(
        BURNT_IN,
        SAMPLES,
        PHOTOMETRIC,
        FRAMES,
        ROWS,
        COLUMNS,
        ALLOCATED,
        POSITION,
        ORIENTATION,
        SPACING,
        THICKNESS,
        BETWEEN,
    ),
    *(
        SCANNING_SEQUENCE,
        SEQUENCE_VARIANT,
        SEQUENCE_NAME,
        REPETITION_TIME,
        AGENT,
        AGENT_ITEMS,
        ECHO_PULSE,
        REFERENCED_SERIES,
        BODY_PART,
        AGENT_PHASE,
        AGENT_USAGE,
        SCAN_OPTIONS,
        ANGIO,
        B_SIEMENS,
        B_PHILIPS,
        B_GE,
    ),
    *(STUDY_DATE, SERIES_DATE, ACQUISITION_DATE, ACQUISITION_DATE_TIME),
    *(STORED, HIGH, SIGNED, PADDING, INTERCEPT, SLOPE, RESCALE_TYPE, LUT, SHARED, PER_FRAME),
    *(RT_FRAMES, ROIS, ROI_CONTOURS),
    *(*(tag for _, tag in TRAITS), *IDENTITY),
]
"""What a header is read for."""
