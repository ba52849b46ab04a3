"""Classification, segmentation and change detection."""
from mtp.data.facts.base import Facts

_CHANGE = ('unchanged', 'changed')
_CHANGE_PALETTE = ((0, 0, 0), (255, 255, 255))

SCENES: dict[str, Facts] = {
    'eurosat': Facts(
        title='EuroSAT (RGB)', task='classification',
        classes=('AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial',
                 'Pasture', 'PermanentCrop', 'Residential', 'River', 'SeaLake'),
        source='P. Helber et al., DFKI: EuroSAT on GitHub and Zenodo, EuroSAT.zip or '
               'EuroSAT_RGB.zip. The lists of the split (M. Neumann et al., 2019) are published '
               'apart, as eurosat-train.txt, eurosat-val.txt, eurosat-test.txt',
        licence='MIT; Copernicus Sentinel data',
        size='27000 images of 64 px, Sentinel-2; 16200 / 5400 / 5400',
        layout='2750/<class>/*.jpg (or EuroSAT_RGB/, or the class folders themselves); '
               'eurosat-{train,val,test}.txt beside it, else each class is divided 60:20:20 by a '
               'fixed seed'),
    'resisc45': Facts(
        title='NWPU-RESISC45', task='classification',
        classes=('airplane', 'airport', 'baseball_diamond', 'basketball_court', 'beach', 'bridge',
                 'chaparral', 'church', 'circular_farmland', 'cloud', 'commercial_area',
                 'dense_residential', 'desert', 'forest', 'freeway', 'golf_course',
                 'ground_track_field', 'harbor', 'industrial_area', 'intersection', 'island',
                 'lake', 'meadow', 'medium_residential', 'mobile_home_park', 'mountain',
                 'overpass', 'palace', 'parking_lot', 'railway', 'railway_station',
                 'rectangular_farmland', 'river', 'roundabout', 'runway', 'sea_ice', 'ship',
                 'snowberg', 'sparse_residential', 'stadium', 'storage_tank', 'tennis_court',
                 'terrace', 'thermal_power_station', 'wetland'),
        source='G. Cheng et al., Northwestern Polytechnical University: NWPU-RESISC45.rar',
        licence='not stated; for research',
        size='31500 images of 256 px, 700 a class; 6300 / 25200',
        layout='NWPU-RESISC45/<class>/*.jpg (or the class folders themselves); '
               '{train,valid}_labels_28_mtp.txt beside it or in mtp/, lines "<image> <label>", '
               'else each class is divided 20:80 by a fixed seed'),
    'spacenet_v1': Facts(
        title='SpaceNet 1 (Rio de Janeiro)', task='segmentation',
        classes=('background', 'building'), palette=((255, 255, 255), (255, 0, 0)),
        source='SpaceNet on AWS Open Data: SN1_buildings, the training archives of the 3-band '
               'images and of the geojson',
        licence='CC BY-SA 4.0',
        size='6940 images of about 438 x 406 px, 0.5 m; divided 5000 / 1940 at random, by a fixed '
             "seed (the paper's own division is not published)",
        layout='3band/3band_AOI_1_RIO_img*.tif and geojson/Geo_AOI_1_RIO_img*.geojson (or '
               'vectordata/geojson/)'),
    'loveda': Facts(
        title='LoveDA', task='segmentation',
        classes=('background', 'building', 'road', 'water', 'barren', 'forest', 'agricultural'),
        palette=((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183),
                 (0, 255, 0), (255, 195, 128)),
        source='J. Wang et al., RSIDEA, Wuhan University: LoveDA on Zenodo, Train.zip, Val.zip, '
               'Test.zip; test labels are on the benchmark server',
        licence='CC BY-NC-SA 4.0; academic use',
        size='5987 images of 1024 px, 0.3 m; 2522 / 1669 / 1796; trains on the first two',
        layout='{Train,Val}/{Urban,Rural}/{images_png,masks_png}/*.png, '
               'Test/{Urban,Rural}/images_png/*.png'),
    'oscd': Facts(
        title='OSCD (RGB)', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='R. Caye Daudt et al., IEEE DataPort: Onera Satellite Change Detection, the '
               'archives of images, train labels and test labels',
        licence='CC BY-NC-SA 4.0; modified Copernicus data',
        size='24 pairs of about 350 to 1200 px, Sentinel-2; 14 / 10 cities, 827 / 385 tiles of 96',
        layout='"Onera Satellite Change Detection dataset - Images"/<city>/pair/img{1,2}.png (or '
               'imgs_{1,2}_rect/*B0{4,3,2}.tif), train.txt and test.txt in it; '
               '"... - Train Labels" and "... - Test Labels"/<city>/cm/<city>-cm.tif'),
    'whu': Facts(
        title='WHU building change', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='S. Ji et al., GPCV group, Wuhan University: Building change detection dataset',
        licence='not stated; for research',
        size='1 pair of 32507 x 15354 px, 0.2 m; 7620 tiles of 256, divided 5334 / 762 / 1524 by a '
             'fixed seed (the division of the published runs is not published)',
        layout='before/before.tif, after/after.tif, "change label"/change_label.tif; or in '
               '"1. The two-period image data": {2012,2016}/whole_image/{train,test}/image/*.tif, '
               'change_label/{train,test}/change_label.tif'),
    'levir': Facts(
        title='LEVIR-CD', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='H. Chen and Z. Shi, LEVIR lab, Beihang University: train.zip, val.zip, test.zip',
        licence='academic use only',
        size='637 pairs of 1024 px, 0.5 m; 445 / 64 / 128, tiles of 256: 7120 / 1024 / 2048',
        layout='{train,val,test}/{A,B,label}/*.png'),
    'svcd': Facts(
        title='CDD (SVCD)', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='M. Lebedev et al., 2018: ChangeDetectionDataset.zip, the subset Real/subset',
        licence='not stated; for research',
        size='16000 pairs of 256 px, 0.03 to 1 m; 10000 / 3000 / 3000',
        layout='ChangeDetectionDataset/Real/subset/{train,val,test}/{A,B,OUT}/*.jpg (or from '
               'Real, or from train on)'),
    'clcd': Facts(
        title='CLCD', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='M. Liu et al., CropLand Change Detection: CLCD.zip of the MSCANet project',
        licence='not stated; for research',
        size='600 pairs of 512 px, 0.5 to 2 m; 360 / 120 / 120, tiles of 256: 1440 / 480 / 480',
        layout='{train,val,test}/{time1,time2,label}/*.png'),
    'egy_bcd': Facts(
        title='EGY-BCD', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='S. Holail et al., Egypt building change detection: EGY-BCD on GitHub',
        licence='not stated; for research',
        size='6091 pairs of 256 px, 0.25 m; without folders or lists of a split divided 60:20:20 '
             'by a fixed seed',
        layout='{train,val,test}/{A,B,label}/*.png, or {A,B,label}/*.png with or without '
               'list/{train,val,test}.txt'),
    'gvlm': Facts(
        title='GVLM', task='change', classes=_CHANGE, palette=_CHANGE_PALETTE,
        source='X. Zhang et al., Global Very-high-resolution Landslide Mapping: GVLM_CD on GitHub',
        licence='not stated; for research',
        size='17 pairs of 1748 to 10808 px, 0.59 m; tiles of 256, divided 60:20:20 at random, by a '
             'fixed seed (no division has been published)',
        layout='GVLM_CD/<site>/{im1,im2,ref}.png (or the folders of the sites themselves)'),
}
